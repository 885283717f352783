"""The engine: owns the resources that runs share (state, paid answers, memory, services) and starts runs.

There are no module globals: two engines in one process share nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import anyio
from anyio.abc import TaskGroup, TaskStatus
from pydantic import BaseModel, ValidationError

from engine.contract.arguments import expect
from engine.contract.chunk import Chunk
from engine.contract.clock import Clock, SystemClock, timestamp
from engine.contract.shared import Shared
from engine.errors import ConfigError
from engine.execution.events import Observer, null_observer
from engine.execution.journal import Journal
from engine.execution.lease import HeldLease
from engine.execution.overlap import Entry, entered
from engine.execution.report import RunReport
from engine.execution.resources import DRAIN_LIMIT, RunnerResources
from engine.execution.run import Following, Run, nothing_follows
from engine.flow.budget import ByteBudget, ProcessBudget
from engine.flow.tracing import Tracer
from engine.plan.model import Plan, PlanNode
from engine.service.declared import Declared
from engine.state.records import Follower, RunRecord, RunStatus
from engine.state.store import StateStore

DEFAULT_MEMORY = 256 * 1024 * 1024

Endpoints = dict[str, dict[str, str]]


class Engine:
    """Runs plans. An async context manager.

    Leaving the block drains the runs of other tasks, or cancels them after an exception or a cancellation,
    and waits until they have ended. Either way they can be resumed.

    Args:
        state_dir: directory of runs, watermarks and dead letters; None keeps them only in memory.
        store: use this store instead of one in `state_dir`.
        memory: total bytes in flight for all runs of this engine.
        samples: folder of documents for the embedded S3; None means the default.
        drain_limit: seconds that a run may take to deliver what it has read when it is drained.
        observer: called at each stage of a run.

    Raises:
        ValueError: `memory` is less than 1.
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
        observer: Observer = null_observer,
        tracer: Tracer | None = None,
    ) -> None:
        expect("engine.Engine", "memory", memory, int, "a number of bytes")
        self.state_dir = Path(state_dir) if state_dir is not None else None
        self.clock: Clock = clock or SystemClock()
        self.observer = observer
        self._tracer = tracer
        self._given_store = store
        self._store: StateStore | None = None
        self._journal: Journal | None = None
        self._samples, self._drain_limit = samples, drain_limit
        self._shared = Shared()
        self._runs: dict[Run, HeldLease] = {}
        self._process = ProcessBudget(memory)
        self._stack = AsyncExitStack()
        self._group: TaskGroup | None = None
        self._sandbox: Endpoints = {}
        self._closing, self._sandbox_lock = anyio.Event(), anyio.Lock()

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
                await lease.release()  # the task that waits for it may not run before the store is closed
        finally:
            self._closing.set()
            await self._close(kind, error, trace)

    async def _close(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._stack.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # the task group wraps the caller's exception, which the caller could no longer catch by type
            if group.exceptions != (error,):
                raise

    @property
    def store(self) -> StateStore:
        """The state store, open while the engine is open."""
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
        """Run a plan until it ends; see `start` for the arguments. Never raises for a run that ends early."""
        async with self.start(plan, resume=resume, group_id=group_id, verify=verify) as run:
            return await run.wait()

    @asynccontextmanager
    async def start(
        self,
        plan: Plan,
        *,
        resume: RunRecord | None = None,
        group_id: str = "",
        run_id: str = "",
        seed: str = "",
        chunk: Chunk | None = None,
        verify: bool = False,
        given_up: Callable[[], bool] = lambda: False,
        follows: Follower | None = None,
        following: Following = nothing_follows,
    ) -> AsyncGenerator[Run, None]:
        """Return a context manager with a run, which starts when `wait` is called inside the block.

        Leaving the block while another task waits for the run drains it, or cancels it after an exception or
        a cancellation. The run has then ended, and can be resumed.

        Args:
            resume: continue this run instead of starting a new one.
            chunk: process only this part of the run of `resume`, under a separate lease; the caller that
                divided the run keeps track of the whole. The report covers the chunk alone.
            group_id: ties the runs of one invocation together.
            run_id: id of a new run; "" generates one from the pipeline's name and the time.
            seed: seeds all randomness; "" draws one.
            verify: at the end, compare the report with the ledger and with the sinks (see its `checks`). Only
                a whole run can be verified, not a chunk.
            given_up: returns true when a run that waits for another run of its pipeline should no longer
                begin.
            follows: the stored follower that the new run replaces.
            following: returns the pipelines that follow a run which ended so; they are stored with its end.

        Raises:
            RunExistsError: another process has started what `follows`.
            RunMismatchError: the run of `resume` was started with a different plan.
            LeaseHeldError: another process works on that run; the message names it.
            RunOverlapError: another run of the pipeline is in progress; see `if_running`.
            StateError, ServiceError: the store or an embedded service cannot be used.
        """
        if chunk is not None and (verify or resume is None):
            raise ValueError("a chunk cannot be verified alone: it belongs to the run named by `resume`")
        await self.provide(plan.sandbox_services, plan.warehouse)
        begin = partial(self.begin, plan, run_id=run_id, group_id=group_id, seed=seed, follows=follows)
        part = chunk.name if chunk is not None else ""
        entry = Entry(self.store, self.clock, plan, begin, resume, part, given_up, follows=follows)
        async with entered(entry) as (record, lease):
            resumed = lease.acquisitions > 1 if chunk is not None else resume is not None
            if resume is not None and chunk is None:
                record = await self._take_up(record.run_id, lease)
            async with self._with_lease_kept(plan, record, lease, resumed, chunk, verify, following) as run:
                yield run

    @asynccontextmanager
    async def _with_lease_kept(
        self,
        plan: Plan,
        record: RunRecord,
        lease: HeldLease,
        resumed: bool,
        chunk: Chunk | None,
        verify: bool,
        following: Following,
    ) -> AsyncGenerator[Run, None]:
        """Provide a run with its memory budget and a renewed lease for the duration of the block."""
        assert self._group is not None, "use `async with Engine(...)`"
        budget, keeping = self._process.pipeline(plan.settings.memory_bytes), anyio.CancelScope()
        resources = self.resources(budget)
        resources.lease = lease
        if self._tracer is not None:
            resources.trace = self._tracer.run(plan.pipeline, record.run_id, record.attempt)
        run = Run(
            plan,
            record,
            resources,
            self.observer,
            resumed=resumed,
            epoch=lease.epoch,
            chunk=chunk,
            verify=verify,
            following=following,
        )
        try:
            self._runs[run] = lease
            self._group.start_soon(lease.renew_within, keeping, run.abort)
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

    async def provide(self, services: Collection[str], warehouse: Declared | None = None) -> None:
        """Start these embedded services; they stop with the engine.

        Args:
            warehouse: models for an embedded warehouse started here, in addition to the installed ones.

        Raises:
            ServiceError: one cannot be started, or the ingest service lacks fields of these models.
        """
        async with self._sandbox_lock:
            missing = sorted(set(services) - set(self._sandbox))
            if missing:
                assert self._group is not None, "use `async with Engine(...)`"
                self._sandbox |= await self._group.start(self._host_sandbox, missing, warehouse)
        if warehouse is not None and "ingest" in services and self.state_dir is not None:
            await anyio.to_thread.run_sync(warehouse.check_served, self.state_dir)

    async def offer_taps(self) -> None:
        """Let other processes of this user sample the records of runs, until the engine is closed.

        They connect to a socket in the state directory (`tap_socket`). Does nothing without a directory, or
        where sockets are not supported.
        """
        from engine.execution.tapping import serve_taps, tap_socket

        assert self._group is not None, "use `async with Engine(...)`"
        if self.state_dir is not None:
            path = tap_socket(self.state_dir, os.getpid())
            await self._group.start(serve_taps, path, self._running, self._closing)

    def _running(self, run_id: str) -> Run | None:
        return next((run for run in self._runs if run.run_id == run_id), None)

    @property
    def endpoints(self) -> Endpoints:
        """The addresses of the embedded services started so far."""
        return dict(self._sandbox)

    def share_sandbox(self, endpoints: Mapping[str, dict[str, str]]) -> None:
        """Use the embedded services of another engine, which must outlive this one."""
        self._sandbox |= endpoints

    async def _host_sandbox(
        self, services: list[str], warehouse: Declared | None, *, task_status: TaskStatus[Endpoints]
    ) -> None:
        # a separate task, so that any task may end the services, not only the one that started them
        from engine.sandbox.client import sandbox

        state_dir = self.state_dir
        async with AsyncExitStack() as stack:
            if state_dir is None:
                from tempfile import TemporaryDirectory

                state_dir = Path(stack.enter_context(TemporaryDirectory(prefix="odw-")))
            endpoints = await stack.enter_async_context(
                sandbox(services, state_dir, samples=self._samples, warehouse=warehouse)
            )
            task_status.started(endpoints)
            await self._closing.wait()

    def connect(self, node: PlanNode) -> BaseModel | None:
        """Return the connection of a node, with embedded services resolved."""
        try:
            return node.connection_model(self._sandbox.get(node.needs_sandbox))
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
            raise ConfigError(f"the connection of node {node.name!r} is not valid: check {fields}") from None

    async def _take_up(self, run_id: str, lease: HeldLease) -> RunRecord:
        record = await self.store.get_run(run_id)  # another process may have had it since the caller checked
        record = replace(record, attempt=record.attempt + 1, status=RunStatus.RUNNING, ended_at="", error="")
        await self.store.update_run(run_id, status=record.status, attempt=record.attempt, epoch=lease.epoch)
        return record

    async def begin(
        self,
        plan: Plan,
        *,
        run_id: str = "",
        group_id: str = "",
        seed: str = "",
        follows: Follower | None = None,
    ) -> RunRecord:
        """Store a new run without starting it; `start` continues it with `resume`.

        Args:
            run_id: unique in the store; "" generates one from the pipeline's name and the time.
            follows: see `start`.

        Raises:
            StateError: the store cannot be used, or already has a run with that id.
            RunExistsError: another process has started what `follows`.
        """
        now = self.clock.now()
        run_id = run_id or f"{plan.pipeline}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
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
        await self.store.create_run(record, follows=follows)
        return record

    def resources(self, budget: ByteBudget) -> RunnerResources:
        """Return the resources of a runner."""
        assert self._journal is not None, "use `async with Engine(...)`"
        return RunnerResources(
            self.store,
            self._journal,
            budget,
            self.clock,
            self.connect,
            self._drain_limit,
            shared=self._shared,
            tell=self.observer,
        )
