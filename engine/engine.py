"""The engine: owns what runs share (state, paid answers, memory, embedded services) and starts runs.

Nothing here is a module global: two engines in one process, and two runs of one engine, meet nowhere else.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup, TaskStatus
from pydantic import BaseModel, ValidationError

from engine.audit import Check
from engine.chunk import Chunk
from engine.clock import Clock, SystemClock, timestamp
from engine.errors import (
    ConfigError,
    EngineError,
    LeaseLostError,
    OutageError,
    RunMismatchError,
    StateError,
)
from engine.flow.budget import ByteBudget, ProcessBudget
from engine.journal import Journal
from engine.lease import HeldLease, held
from engine.observe import Observer, Stage, silent
from engine.plan import Plan, PlanNode
from engine.report import RunReport
from engine.runner import DRAIN_LIMIT, RunIdentity, Runner, RunnerResources
from engine.state.protocol import DeadLetterFilter, RunRecord, RunStatus, StateStore
from engine.stats import RunSnapshot
from engine.verification import not_asked
from engine.verification import verify as compare

__all__ = ["DEFAULT_MEMORY", "Engine", "Run"]

DEFAULT_MEMORY = 256 * 1024 * 1024

Endpoints = dict[str, dict[str, str]]


class Engine:
    """Runs plans. An async context manager.

    Leaving the block drains the runs that other tasks still work on, or cancels them when it is left by an
    exception or a cancellation, and waits for their ends. Either way they can be resumed.

    Args:
        state_dir: where runs, watermarks and dead letters are kept; None keeps them in memory only.
        store: use this store instead of one in `state_dir`.
        memory: bytes in flight for all runs of this engine together.
        samples: folder of documents for the embedded S3; None means the default.
        drain_limit: seconds that a run may take to deliver what it has read when it is drained.
        observer: called at each stage of a run.
    """

    def __init__(
        self,
        *,
        state_dir: Path | str | None = None,
        store: StateStore | None = None,
        memory: int = DEFAULT_MEMORY,
        clock: Clock | None = None,
        samples: Path | None = None,
        drain_limit: float = DRAIN_LIMIT,
        observer: Observer = silent,
    ) -> None:
        self.state_dir = Path(state_dir) if state_dir is not None else None
        self.clock: Clock = clock or SystemClock()
        self.observer = observer
        self._given_store = store
        self._store: StateStore | None = None
        self._journal: Journal | None = None
        self._samples = samples
        self._drain_limit = drain_limit
        self._runs: dict[Run, HeldLease] = {}
        self._process = ProcessBudget(memory)
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None
        self._closing = anyio.Event()
        self._sandbox: Endpoints = {}
        self._sandbox_lock = anyio.Lock()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            self._store = await self._stack.enter_async_context(self._given_store or self._default_store())
            self._journal = Journal(self._store, self.clock)
            self._group = await self._stack.enter_async_context(anyio.create_task_group())
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        at_once = kind is not None
        try:
            for run in self._runs:
                run.cancel() if at_once else run.drain()
            for run, lease in list(self._runs.items()):
                await run.leave(at_once=at_once)
                await lease.release()  # whoever has it may not get to it before the store is closed
        finally:
            self._closing.set()
            await self._close(kind, error, trace)

    async def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # the task group wraps what the caller raised, who could not catch it by its name any more
            if group.exceptions != (error,):
                raise

    @property
    def store(self) -> StateStore:
        """The state store; open while the engine is."""
        if self._store is None:
            raise RuntimeError("use `async with Engine(...)`")
        return self._store

    def _default_store(self) -> StateStore:
        if self.state_dir is None:
            from engine.state.memory import MemoryStateStore

            return MemoryStateStore()
        from engine.state import open_store

        return open_store(self.state_dir)

    async def run(
        self, plan: Plan, *, resume: RunRecord | None = None, group_id: str = "", verify: bool = False
    ) -> RunReport:
        """Run a plan to its end; see `start` for the arguments. Never raises for a run that ends early."""
        async with self.start(plan, resume=resume, group_id=group_id, verify=verify) as run:
            return await run.wait()

    @asynccontextmanager
    async def start(
        self,
        plan: Plan,
        *,
        resume: RunRecord | None = None,
        group_id: str = "",
        seed: str = "",
        chunk: Chunk | None = None,
        verify: bool = False,
    ) -> AsyncGenerator[Run, None]:
        """A run, started when `wait` is called inside the block.

        Leaving the block while another task waits for the run drains it, or cancels it when the block is left
        by an exception or a cancellation. The run has ended then, and can be resumed.

        Args:
            resume: go on with this run instead of beginning a new one.
            chunk: do only this part of the run that `resume` names, under a lease of its own; whoever divided
                the run says how it stands as a whole. The report then is of the chunk alone.
            group_id: ties the runs of one invocation together.
            seed: fixes everything random; "" draws one.
            verify: at the end, compare the report with the ledger and with what the sinks have (its
                `checks`). A chunk cannot be verified, only the run as a whole.

        Raises:
            RunMismatchError: the plan is not the one `resume` was begun with.
            LeaseHeldError: another process works on that run; it is named.
            StateError, ServiceError: the store or an embedded service cannot be used.
        """
        if verify and chunk is not None:
            raise ValueError("a chunk cannot be verified, only its run as a whole")
        await self.provide(plan.sandbox_services)
        record = resume
        if record is None:
            if chunk is not None:
                raise ValueError("a chunk is part of a run that was begun before: name it with `resume`")
            record = await self.begin(plan, group_id=group_id, seed=seed)
        else:
            _check_identity(record, plan)
        part = chunk.name if chunk is not None else ""
        async with held(self.store, self.clock, record.run_id, part) as lease:
            resumed = lease.taken > 1 if chunk is not None else resume is not None
            if resume is not None and chunk is None:
                record = await self._take_up(record.run_id, lease)
            async with self._attended(plan, record, lease, resumed, chunk, verify) as run:
                yield run

    @asynccontextmanager
    async def _attended(
        self,
        plan: Plan,
        record: RunRecord,
        lease: HeldLease,
        resumed: bool,
        chunk: Chunk | None,
        verify: bool,
    ) -> AsyncGenerator[Run, None]:
        """A run that has its memory, and whose lease is kept, for as long as the block runs."""
        assert self._group is not None, "use `async with Engine(...)`"
        budget = self._process.pipeline(plan.settings.memory_bytes)
        keeping = anyio.CancelScope()
        run = Run(self, plan, record, budget, resumed=resumed, epoch=lease.epoch, chunk=chunk, verify=verify)
        try:
            self._runs[run] = lease
            self._group.start_soon(lease.keep_within, keeping, run.abort)
            try:
                yield run
            except BaseException:
                await run.leave(at_once=True)
                raise
            await run.leave()
        finally:
            self._runs.pop(run, None)
            keeping.cancel()
            budget.close()

    async def provide(self, services: Collection[str]) -> None:
        """Have these embedded services running; they stop with the engine."""
        async with self._sandbox_lock:
            missing = sorted(set(services) - set(self._sandbox))
            if not missing:
                return
            assert self._group is not None, "use `async with Engine(...)`"
            self._sandbox |= await self._group.start(self._host_sandbox, missing)

    async def _host_sandbox(self, services: list[str], *, task_status: TaskStatus[Endpoints]) -> None:
        # a task of its own, so that whoever asks first need not be the one who ends it
        from engine.sandbox.client import sandbox

        state_dir = self.state_dir
        async with AsyncExitStack() as stack:
            if state_dir is None:
                from tempfile import TemporaryDirectory

                state_dir = Path(stack.enter_context(TemporaryDirectory(prefix="odw-")))
            endpoints = await stack.enter_async_context(sandbox(services, state_dir, samples=self._samples))
            task_status.started(endpoints)
            await self._closing.wait()

    def connect(self, node: PlanNode) -> BaseModel | None:
        """The connection of a node, with the embedded service filled in where it is asked for."""
        try:
            return node.connection_model(self._sandbox.get(node.needs_sandbox))
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise ConfigError(f"the connection of node {node.name!r} is not usable: check {fields}") from None

    async def _take_up(self, run_id: str, lease: HeldLease) -> RunRecord:
        record = await self.store.get_run(run_id)  # another process may have had it since the caller looked
        record = replace(record, attempt=record.attempt + 1, status=RunStatus.RUNNING, ended_at="", error="")
        await self.store.update_run(run_id, status=record.status, attempt=record.attempt, epoch=lease.epoch)
        return record

    async def begin(self, plan: Plan, *, run_id: str = "", group_id: str = "", seed: str = "") -> RunRecord:
        """Enter a new run into the store without starting it; `start` goes on with it under `resume`.

        Args:
            run_id: unique in the store; "" makes one of the pipeline's name and the time.

        Raises:
            StateError: the store cannot be used, or has a run of that id.
        """
        now = self.clock.now()
        run_id = run_id or f"{plan.pipeline}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        record = RunRecord(
            run_id=run_id,
            pipeline=plan.pipeline,
            group_id=group_id or run_id,
            identity=plan.identity,
            identity_doc=plan.identity_doc,
            operational_doc=plan.operational_doc,
            params=dict(plan.params),
            seed=seed or secrets.token_hex(8),
            started_at=timestamp(now),
        )
        await self.store.create_run(record)
        return record

    def resources(self, budget: ByteBudget) -> RunnerResources:
        """What a runner works with."""
        assert self._journal is not None, "use `async with Engine(...)`"
        return RunnerResources(self.store, self._journal, budget, self.clock, self.connect, self._drain_limit)


class Run:
    """A run in progress: watch it, drain it, cancel it, wait for it."""

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        record: RunRecord,
        budget: ByteBudget,
        *,
        resumed: bool,
        epoch: int = 0,
        chunk: Chunk | None = None,
        verify: bool = False,
    ) -> None:
        self.plan = plan
        self.record = record
        self._engine = engine
        self._budget = budget
        identity = RunIdentity(
            run_id=record.run_id,
            seed=record.seed,
            started_at=datetime.fromisoformat(record.started_at),
            resumed=resumed,
            epoch=epoch,
            attempt=record.attempt,
            chunk=chunk,
        )
        self._epoch = epoch
        self._chunk = chunk
        self._resumed = resumed
        self._verify = verify
        self._runner = Runner(plan, identity, engine.resources(budget), count=verify)
        self._begun = False
        self._abandoned = False
        self._ended = anyio.Event()

    @property
    def run_id(self) -> str:
        """The run's id in the state store."""
        return self.record.run_id

    def snapshot(self) -> RunSnapshot:
        """What the run is doing right now."""
        return self._runner.snapshot()

    def drain(self) -> None:
        """Stop reading, deliver and commit what is in flight, end. The run can be resumed."""
        self._runner.drain()

    def cancel(self) -> None:
        """End at once. What was not committed is read again by a resume."""
        self._runner.cancel()

    def abort(self, error: EngineError) -> None:
        """End at once, as failed with this error."""
        self._runner.abort(error)

    def abandon(self) -> None:
        """Let nobody wait for it any more: it does not even end when it is stopped. Others take it over."""
        self._abandoned = True

    async def list_splits(self, node: str, *, on_page: Callable[[int], None] = lambda listed: None) -> int:
        """Put the splits of a source into the store, a page at a time; for runs that are done in chunks.

        Args:
            on_page: called with the number listed so far.

        Returns:
            How many splits there are.
        """
        return await self._runner.list_splits(node, on_page)

    async def wait(self) -> RunReport:
        """Run to the end and report. Errors of the run are in the report; call it once.

        Raises:
            StateError: not even the end of the run could be stored.
        """
        self._begun = True
        try:
            return await self._run()
        finally:
            self._ended.set()

    async def leave(self, *, at_once: bool = False) -> None:
        """End a run that another task waits for, and wait until it has ended: drained, or cancelled at once.

        Being cancelled meanwhile cancels the run as well. One that has not begun never does.
        """
        if self._abandoned:
            return
        if not self._begun:
            self.cancel()
            return
        try:
            if not at_once and not self._ended.is_set():
                self.drain()
                await self._ended.wait()
        finally:
            if not self._ended.is_set():
                self.cancel()
            with anyio.CancelScope(shield=True):
                await self._ended.wait()

    async def _run(self) -> RunReport:
        self._tell("started", "resumed" if self._resumed else "started", "info")
        status = RunStatus.COMPLETED
        failure: EngineError | None = None
        try:
            await self._runner.execute()
            if not self._runner.finished:
                status = RunStatus.INTERRUPTED
        except OutageError as error:
            status, failure = RunStatus.OUTAGE, error
        except EngineError as error:
            status, failure = RunStatus.FAILED, error
        except BaseException:
            # whoever has taken the run over says how it stands
            with anyio.CancelScope(shield=True), suppress(LeaseLostError):
                await self._finish(RunStatus.INTERRUPTED, "cancelled from outside")
            raise
        return await self._report(status, failure)

    async def _report(self, status: RunStatus, failure: EngineError | None) -> RunReport:
        error = str(failure) if failure is not None else ""
        try:
            with anyio.CancelScope(shield=True):
                await self._finish(status, error)
            # of a chunk, this process has seen all: what was done before, and what it did itself
            live = self._chunk is not None
            tally = self._runner.ledger.live() if live else await self._runner.ledger.tally()
            where = DeadLetterFilter(run_id=self.run_id, status="open")
            dead = await self._engine.store.count_dead_letters(where)
        except EngineError as problem:
            if failure is None:
                raise
            # the store is what failed: the counters of this process are all there is to report
            if not isinstance(problem, LeaseLostError):
                failure.add_note(f"and the state store could not be read: {problem}")
            tally, dead = self._runner.ledger.live(), self._runner.dead_letters
        snapshot = self._runner.snapshot()
        report = RunReport(
            pipeline=self.plan.pipeline,
            run_id=self.run_id,
            status=status,
            tally=tally,
            seconds=snapshot.elapsed,
            nodes=snapshot.nodes,
            bottleneck=snapshot.bottleneck,
            error=error,
            failure=failure,
            dead_letters=dead,
            peak_bytes=self._budget.peak,
            attempt=self.record.attempt,
        )
        if self._verify:
            report = replace(report, checks=await self._checks(report))
        level = "info" if report.ok else ("warning" if status is RunStatus.INTERRUPTED else "error")
        self._tell("finished", str(status), level, read=tally.read, written=tally.written, dead=tally.dead)
        return report

    async def _checks(self, report: RunReport) -> list[Check]:
        """What was compared. A store that cannot be read is told of already, if the run failed with it."""
        runner = self._runner
        try:
            checks = await compare(
                self._engine.store,
                self.plan,
                report,
                settled=runner.settled,
                distinct_keys=runner.distinct_keys,
            )
        except StateError as problem:
            return [Check("figures in the ledger", note=str(problem), failed=True)]
        return [*checks, *(runner.counts or not_asked(self.plan))]

    async def _finish(self, status: RunStatus, error: str) -> None:
        if self._chunk is not None:
            return
        ended = timestamp(self._engine.clock.now())
        await self._engine.store.update_run(
            self.run_id, status=status, ended_at=ended, error=error[:2000], epoch=self._epoch
        )

    def _tell(self, action: str, message: str, level: str, **numbers: int) -> None:
        what = "run"
        if self._chunk is not None:
            what, message = "chunk", f"{self._chunk.name} {message}"
        stage = Stage(f"{what}_{action}", message, level, self.plan.pipeline, self.run_id, numbers)
        self._engine.observer(stage)


def _check_identity(record: RunRecord, plan: Plan) -> None:
    if record.identity == plan.identity:
        return
    from engine.plan import difference

    changes = "\n".join(f"  {line}" for line in difference(record.identity_doc, plan.identity_doc))
    raise RunMismatchError(
        f"run {record.run_id!r} was begun with another plan and cannot go on with this one:\n"
        f"{changes}\nrun it anew, or restore what the run was begun with"
    )
