"""Run a file's pipelines inside the process that serves the warehouse, on request over HTTP."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import TaskGroup

from engine.config import Overrides, load_file, select
from engine.config.model import FileConfig, Settings
from engine.contract.types import JsonValue
from engine.errors import ConfigError, EngineError
from engine.execution.engine import Engine
from engine.execution.session import Session, new_group
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.redaction import without_credentials
from engine.registry import Registry
from engine.service.operations import HostedRun, RunStartError, RunState, StartedRun
from engine.state.records import RunRecord, RunStatus

SERVED = "serve-"
"""Prefix of the groups of runs that a service starts, and resumes after a kill."""

_log = logging.getLogger(__name__)

START_TIMEOUT = 60.0
MAX_BATCH_SIZE = 1_000_000_000
"""Upper bound of a request; the same number bounds what a source makes in one run."""
_POLL = 0.01
_BATCH_SIZE = "batch_size"
_WORKFLOW = "-workflow"
_ORIGINAL_DEFAULTS = {_BATCH_SIZE: "100"}
_ORIGINAL_TRIGGERS = frozenset(
    name for one in ("blob", "logs", "events") for name in (f"extract-{one}", f"{one}{_WORKFLOW}")
)
"""The original's own triggers, and their defaults; used only for aliases of a file."""

_STATES: Mapping[RunStatus, RunState] = {
    RunStatus.RUNNING: "RUNNING",
    RunStatus.COMPLETED: "COMPLETED",
    RunStatus.FAILED: "FAILED",
    RunStatus.INTERRUPTED: "CANCELED",
    RunStatus.OUTAGE: "FAILED",
}


class PipelineHost:
    """Starts pipelines of a file, by name or alias, and lists the runs of the engine's state store.

    Each start reads the file again, so changes take effect; `follow_file` makes changed names, parameters and
    schedules known. Call `attach` before anything else.

    Args:
        file: the pipelines.

    Raises:
        ConfigError: the file is not valid.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._on_end: list[Callable[[str, Session], None]] = []
        self._engine: Engine | None = None
        self._group: TaskGroup | None = None
        self._sessions: list[Session] = []
        self._failures: WeakKeyDictionary[Session, str] = WeakKeyDictionary()
        self._stamp = _stamp_of(file)
        self.config, self.plans = self._load()
        self.services = frozenset(
            service for plan in self.plans.values() for service in plan.sandbox_services
        )
        self.warehouse = self.config.warehouse

    async def follow_file(self) -> None:
        """Adopt the file if it was changed; while it is invalid, its last valid state counts."""
        stamp = await anyio.to_thread.run_sync(_stamp_of, self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.config, plans = await anyio.to_thread.run_sync(self._load)
        except ConfigError as error:
            problems = without_credentials(str(error))
            _log.warning(
                "new pipelines, parameters and schedules are ignored until the file is valid: %s", problems
            )
            return
        # plans of pipelines that were removed describe their earlier runs
        self.plans = {**self.plans, **plans}

    def scheduled(self) -> dict[str, Settings]:
        """Return the settings of the pipelines that have a schedule."""
        every = {name: self.plans[name].settings for name in self.config.pipelines}
        return {name: settings for name, settings in every.items() if settings.schedule}

    def watch_ends(self, listener: Callable[[str, Session], None]) -> None:
        """Call this function with the name and the session when a session ends."""
        self._on_end.append(listener)

    def attach(self, engine: Engine, group: TaskGroup) -> None:
        """Use this engine and this task group for runs; both have to outlive the service's requests."""
        self._engine, self._group = engine, group

    def stop(self) -> None:
        """Drain every started run: deliver what it has read, and end."""
        for session in self._sessions:
            session.drain()

    def parameters(self, name: str) -> Collection[str] | None:
        """See `RunHost`; an unknown `extract-<pipeline>` means that pipeline."""
        pipeline = self._pipeline(name)
        return self.config.pipelines[pipeline].parameters.keys() if pipeline is not None else None

    async def start(self, name: str, params: Mapping[str, str]) -> StartedRun:
        """See `RunHost`. Returns once the run is in the state store."""
        pipeline = self._pipeline(name)
        if pipeline is None:
            raise RunStartError(f"there is no pipeline {name!r} to start", is_callers=True)
        if self._engine is None or self._group is None:
            raise RunStartError("the service is starting: try again in a few seconds")
        params = {**self._defaults(name, pipeline), **params}
        plans, used = await anyio.to_thread.run_sync(self._plans, pipeline, params)
        session = Session(self._engine, plans, [pipeline], group_id=f"{SERVED}{new_group(self._engine)}")
        self.begin(pipeline, session)
        with anyio.move_on_after(START_TIMEOUT):
            while pipeline not in session.entries or session.entries[pipeline].run is None:
                ended = session.reports.get(pipeline)
                if ended is not None:
                    raise RunStartError(ended.error)
                if session not in self._sessions:
                    raise RunStartError(self._failures.get(session, "the run ended at its start"))
                await anyio.sleep(_POLL)  # sessions do not notify
        run = session.entries[pipeline].run if pipeline in session.entries else None
        if run is None:
            raise RunStartError(f"{pipeline} did not start within {START_TIMEOUT:g} s")
        return StartedRun(pipeline, self._workflow_id(run.record), run.run_id, used)

    async def list_runs(self, limit: int, states: Collection[RunState] = ()) -> list[HostedRun]:
        """See `RunHost`."""
        if self._engine is None or limit <= 0:
            return []
        statuses = [status for status, state in _STATES.items() if state in states]
        if states and not statuses:
            return []
        records = await self._engine.store.list_runs(statuses=statuses, limit=limit)
        return [self._hosted(record) for record in reversed(records)]

    async def terminate(self, name: str) -> HostedRun | None:
        """See `RunHost`; only runs of this process can be terminated."""
        for session in reversed(self._sessions):
            for entry in session.entries.values():
                if entry.run is None or entry.report is not None:
                    continue
                hosted = self._hosted(entry.run.record)
                if name in (hosted.workflow_id, self._workflow(hosted.pipeline), hosted.pipeline):
                    session.cancel()
                    return hosted
        return None

    def begin(self, name: str, session: Session) -> None:
        """Execute a session concurrently with the others."""
        assert self._group is not None, "attach comes first"
        self._sessions.append(session)
        self._group.start_soon(self._execute, name, session)

    async def _execute(self, name: str, session: Session) -> None:
        try:
            await session.execute()
        except EngineError as error:  # `start` reports this to its caller, who is still waiting for the run
            self._failures[session] = without_credentials(str(error))
        finally:
            self._sessions.remove(session)
        for listener in self._on_end:
            listener(name, session)

    def _defaults(self, name: str, pipeline: str) -> Mapping[str, str]:
        if name not in _ORIGINAL_TRIGGERS or name not in self.config.aliases:
            return {}
        return _ORIGINAL_DEFAULTS if _BATCH_SIZE in self.config.pipelines[pipeline].parameters else {}

    def _pipeline(self, name: str) -> str | None:
        pipeline = self.config.resolve_alias(name)
        if pipeline not in self.config.pipelines and name.startswith("extract-"):
            pipeline = self.config.resolve_alias(name.removeprefix("extract-").replace("-", "_"))
        return pipeline if pipeline in self.config.pipelines else None

    def _plans(
        self, pipeline: str, params: Mapping[str, str]
    ) -> tuple[dict[str, Plan], dict[str, JsonValue]]:
        """Return the plans, and the parameters that were used.

        A batch size above a node's limit is halved until it fits: the node splits batches anyway.
        """
        used = dict(params)
        digits = used.get(_BATCH_SIZE, "").strip().lstrip("0")
        if digits.isascii() and digits.isdigit() and len(digits) > 9 and digits != str(MAX_BATCH_SIZE):
            raise RunStartError(f"`{_BATCH_SIZE}` must be at most {MAX_BATCH_SIZE:,}", is_callers=True)
        while True:
            try:
                texts = tuple(f"{pipeline}.{name}={value}" for name, value in used.items())
                return self._load(Overrides(param_texts=texts), only=[pipeline])[1], {**used}
            except ConfigError as error:
                size = used.get(_BATCH_SIZE, "")
                if not (size.isascii() and size.isdigit() and int(size) > 1):
                    raise RunStartError(_without_option(str(error)), is_callers=True) from error
                used = {**used, _BATCH_SIZE: str(int(size) // 2)}

    def compiled_with(self, pipeline: str, params: Mapping[str, Mapping[str, JsonValue]]) -> dict[str, Plan]:
        """Compile a pipeline of the current file, with its followers. Raises ConfigError.

        Args:
            params: parameters by pipeline, also of followers.
        """
        return self._load(Overrides(params=params), only=[pipeline])[1]

    def _load(
        self, overrides: Overrides | None = None, *, only: Collection[str] = ()
    ) -> tuple[FileConfig, dict[str, Plan]]:
        """Read the current file and compile its pipelines. Raises ConfigError."""
        config = load_file(self._file, environ=os.environ, overrides=overrides)
        return config, compile_file(select(config, only) if only else config, Registry.installed())

    def _hosted(self, record: RunRecord) -> HostedRun:
        return HostedRun(
            pipeline=record.pipeline,
            workflow_id=self._workflow_id(record),
            run_id=record.run_id,
            state=_STATES[record.status],
            started_at=record.began,
            ended_at=record.ended,
            error=record.error,
        )

    def _workflow(self, pipeline: str) -> str:
        own = (alias for alias, target in self.config.aliases.items() if target == pipeline)
        workflows = [alias for alias in own if alias.endswith(_WORKFLOW)]
        return workflows[-1] if workflows else f"{pipeline.replace('_', '-')}{_WORKFLOW}"

    def _workflow_id(self, record: RunRecord) -> str:
        """Return the workflow's name, with 16 digits of the hash of its parameters, if any."""
        name = self._workflow(record.pipeline)
        if not record.params:
            return name
        text = json.dumps({**record.params}, sort_keys=True, default=str)
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _stamp_of(file: str) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _without_option(message: str) -> str:
    """Remove the option from a problem with parameters, for a caller without a command line."""
    message = message.removeprefix("only: ")
    return re.sub(r"^--param: \S+?\.(\S+): (parameter )?", _named, message, flags=re.MULTILINE)


def _named(found: re.Match[str]) -> str:
    return found[2] or f"`{found[1]}`: "
