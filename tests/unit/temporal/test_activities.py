"""Activities without a server: cancelled, stopped, with heartbeats of another version, misconfigured."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from engine import load
from engine.config.model import NodeOptions, Notify, RetryOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import Receipt, Source
from engine.contract.split import Split
from engine.errors import ConfigError, FatalError, StateError, TransientError
from engine.execution import ledger, notifying
from engine.execution.engine import Engine
from engine.execution.events import null_observer
from engine.plan.model import Plan
from engine.state.records import Lease, RunStatus
from engine.temporal.activities import Activities
from engine.temporal.heartbeat import Progress
from engine.temporal.messages import (
    ChunkRequest,
    ChunkResult,
    CompileRequest,
    FinalizeRequest,
    Listed,
    ListRequest,
)
from engine.temporal.supervision import Patience
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan
from tests.unit.kernel.runs import pages

TOTAL = 800  # more than edges hold
SPLITS = {f"s{number}": pages(TOTAL // 4, first=TOTAL // 4 * number) for number in range(4)}
WHOLE = ChunkRequest("r", "test", "test", "n0", 0, 4)
PATIENCE = 300.0
SHORT = Patience(beat_every=0.01, stall_after=0.1, give_up_after=0.1)


class Environment(ActivityEnvironment):
    """An attempt with time for a slow machine; by default it has a second, and drains before."""

    def __init__(self) -> None:
        super().__init__()
        self.info = dataclasses.replace(self.info, start_to_close_timeout=timedelta(hours=1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatientUntil(Patience):
    """Takes nothing for stalled before an event, however slow the machine is."""

    event: anyio.Event

    def heartbeat(self, look: Callable[[], Progress], *others: Any) -> Coroutine[Any, Any, None]:
        def unless_slow() -> Progress:
            now = look()
            return dataclasses.replace(now, excused=now.excused or not self.event.is_set())

        return super().heartbeat(unless_slow, *others)


async def planned(activities: Activities, environment: ActivityEnvironment) -> None:
    """Have the run "r" in the store, with its splits."""
    await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
    listed = await environment.run(activities.list_chunks, ListRequest("r", "test", "test", "n0"))
    assert listed.splits == len(SPLITS)


async def test_resumed_run_keeps_its_division() -> None:
    plan, environment = linear_plan(MemorySource(SPLITS), MemorySink()), Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
        request = ListRequest("r", "test", "test", "n0", chunk_splits=3)
        assert (await environment.run(activities.list_chunks, request)).chunk_splits == 3
        for asked in (1, 0, 3):
            request = ListRequest("r", "test", "test", "n0", chunk_splits=asked)
            assert (await environment.run(activities.list_chunks, request)) == Listed(len(SPLITS), 3)


class Endless(MemorySource):
    """Lists a split at a time, some of them before the worker is told to stop; continues after the last."""

    def __init__(self, environment: ActivityEnvironment, at_once: int) -> None:
        super().__init__(SPLITS)
        self.environment, self.at_once = environment, at_once
        self.began: list[str | None] = []

    def can_list_after(self, last: Split) -> bool:
        return True

    async def splits(self, ctx: Any) -> Any:
        self.began.append(ctx.listed.key if ctx.listed else None)
        first = list(SPLITS).index(ctx.listed.key) + 1 if ctx.listed else 0
        for place, name in enumerate(list(SPLITS)[first:]):
            if place == self.at_once:
                self.environment.worker_shutdown()
                self.environment.cancel()
                await anyio.sleep_forever()
            yield Split(name)


async def test_a_listing_that_is_handed_back_continues_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "PAGE_SPLITS", 1)
    async with Engine() as engine:
        began: list[str | None] = []
        for turn in range(4):
            environment = Environment()
            source = Endless(environment, at_once=1)
            plan = linear_plan(source, MemorySink())
            activities = Activities(engine, lambda pipeline, params, plan=plan: plan)  # type: ignore[misc]
            if not turn:
                await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
            listed = await environment.run(activities.list_chunks, ListRequest("r", "test", "test", "n0"))
            began += source.began
            assert listed.stopped is (turn < 3)
        splits, complete = await engine.store.splits("r", "n0")

    assert began == [None, "s0", "s1", "s2"]
    assert (complete, [one.split.key for one in splits]) == (True, list(SPLITS))


class Stuck(MemorySink):
    """Takes one batch, then waits for an event."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.go = anyio.Event(), anyio.Event()

    async def write(self, batch: Batch) -> Receipt:
        if self.records:
            self.reached.set()
            await self.go.wait()
        return await super().write(batch)


@dataclasses.dataclass
class Ending:
    """How a chunk has ended to which something happened, with what is in the store."""

    task: asyncio.Task[ChunkResult]
    written: int
    leases: list[Lease]


async def stopped(act: Callable[[ActivityEnvironment], None], sink: Stuck, *, release: bool = True) -> Ending:
    """A chunk that something happens to while it has read and not delivered."""
    plan, environment = linear_plan(MemorySource(SPLITS), sink), Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        task = asyncio.ensure_future(environment.run(activities.run_chunk, WHOLE))
        with anyio.fail_after(PATIENCE):
            await sink.reached.wait()
            act(environment)
            await asyncio.sleep(0)
            if release:
                sink.go.set()
            await asyncio.wait([task])
        return Ending(task, (await engine.store.tally("r")).written, await engine.store.leases("r"))


async def test_cancelled_chunk_delivers_what_it_has_read() -> None:
    sink = Stuck()
    ending = await stopped(ActivityEnvironment.cancel, sink)

    assert ending.task.cancelled()
    assert 20 <= ending.written == len(sink.records) < TOTAL


async def test_stopping_worker_hands_its_chunk_back() -> None:
    sink = Stuck()
    ending = await stopped(ActivityEnvironment.worker_shutdown, sink)

    result = ending.task.result()
    assert (result.done, result.stopped) == (False, True)
    assert 20 <= result.counts.written == ending.written == len(sink.records) < TOTAL
    assert ending.leases == [], "whoever comes next has not to wait"


async def test_chunk_is_handed_back_in_the_state_of_the_ledger() -> None:
    def told_twice(environment: ActivityEnvironment) -> None:
        environment.worker_shutdown()
        environment.cancel()

    sink = Stuck()
    ending = await stopped(told_twice, sink, release=False)

    result = ending.task.result()
    assert (result.done, result.stopped) == (False, True)
    assert result.counts.written == ending.written == len(sink.records) == 10


@pytest.mark.parametrize("details", [(), ({"v": 99, "offset": "x"},), ("text", 7), (None,)])
async def test_earlier_heartbeats_are_not_relied_upon(details: tuple[object, ...]) -> None:
    sink, environment = MemorySink(), Environment()
    plan = linear_plan(MemorySource(SPLITS), sink)
    environment.info = dataclasses.replace(environment.info, heartbeat_details=details, attempt=2)
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        result = await environment.run(activities.run_chunk, WHOLE)

    assert (result.done, result.counts.written) == (True, TOTAL)
    assert sorted(sink.records) == list(range(TOTAL))


async def test_heartbeats_are_timely_and_carry_only_counts() -> None:
    sink, environment = Stuck(), Environment()
    beats: list[tuple[Any, ...]] = []

    def beat(*details: Any) -> None:
        beats.append(details)
        sink.go.set()

    environment.on_heartbeat = beat
    environment.info = dataclasses.replace(environment.info, heartbeat_timeout=timedelta(seconds=0.2))
    plan = linear_plan(MemorySource(SPLITS), sink)
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan, patience=Patience(beat_every=60.0))
        await planned(activities, environment)
        with anyio.fail_after(PATIENCE):
            await environment.run(activities.run_chunk, WHOLE)

    assert beats, "it has beaten although it was told to do so every minute only"
    assert set(beats[0][0]) == {"read", "written", "dead", "trouble", "v"}


class Hanging(MemorySource):
    """Lists a page of splits and nothing more."""

    async def splits(self, ctx: Any) -> Any:
        async for split in super().splits(ctx):
            yield split
        self.when_listed()
        await anyio.sleep_forever()

    def when_listed(self) -> None:
        """Called when there will be no more."""


async def listing_cut_off(request: ListRequest) -> tuple[Listed, list[Lease]]:
    """What comes of a listing that a worker does not finish in its grace, and the leases that are left."""
    source, environment = Hanging(SPLITS), Environment()
    plan, reached = linear_plan(source, MemorySink()), anyio.Event()
    source.when_listed = reached.set  # type: ignore[method-assign]
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
        task = asyncio.ensure_future(environment.run(activities.list_chunks, request))
        with anyio.fail_after(PATIENCE):
            await reached.wait()
            environment.worker_shutdown()
            environment.cancel()
            return await task, await engine.store.leases("r")


async def test_stopping_worker_hands_its_listing_back() -> None:
    listed, leases = await listing_cut_off(ListRequest("r", "test", "test", "n0"))
    assert listed == Listed(stopped=True)
    assert leases == [], "whoever comes next has not to wait"


async def test_old_workflow_gets_no_handed_back_listing() -> None:
    with pytest.raises(ApplicationError) as raised:
        await listing_cut_off(ListRequest("r", "test", "test", "n0", v=1))
    assert (raised.value.type, raised.value.non_retryable) == ("WorkerShutdown", False)


class Unlisted(MemorySource):
    """Cannot be listed."""

    def __init__(self) -> None:
        super().__init__({})
        self.asked = anyio.Event()

    async def splits(self, ctx: Any) -> Any:
        self.asked.set()
        raise TransientError("no answer")
        yield


@pytest.mark.slow
async def test_listing_waits_once_for_the_whole_outage_limit() -> None:
    source, environment = Unlisted(), Environment()
    plan = linear_plan(source, MemorySink(), settings=Settings(outage_limit=1.0))
    patience = PatientUntil(beat_every=0.01, stall_after=0.5, event=source.asked)
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan, patience=patience)
        with anyio.fail_after(PATIENCE), pytest.raises(ApplicationError) as raised:
            await planned(activities, environment)

    assert (raised.value.type, raised.value.non_retryable) == ("SourceUnavailable", True)


async def test_listing_in_an_outage_is_handed_back_at_once() -> None:
    plan = linear_plan(Unlisted(), MemorySink(), settings=Settings(outage_limit=3600.0))
    environment = Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan, patience=Patience(beat_every=0.01))
        await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
        environment.worker_shutdown()
        with anyio.fail_after(PATIENCE):
            request = ListRequest("r", "test", "test", "n0")
            assert await environment.run(activities.list_chunks, request) == Listed(stopped=True)
        assert await engine.store.leases("r") == []


@pytest.mark.parametrize("what", ["listing", "chunk"])
async def test_work_without_progress_is_stopped_as_stalled(what: str) -> None:
    hanging, stuck = Hanging(SPLITS), Stuck()
    source: Source[Any] = hanging if what == "listing" else MemorySource(SPLITS)
    hanging.when_listed = stuck.reached.set  # type: ignore[method-assign]
    plan, environment = linear_plan(source, stuck), Environment()
    patience = PatientUntil(**dataclasses.asdict(SHORT), event=stuck.reached)
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan, patience=patience)
        with anyio.fail_after(PATIENCE), pytest.raises(ApplicationError) as raised:
            await planned(activities, environment)
            await environment.run(activities.run_chunk, WHOLE)

    assert (raised.value.type, raised.value.non_retryable) == ("Stalled", False)
    assert "no progress for 0.1 s; waiting for n" in str(raised.value)


class Deaf(MemorySink):
    """Cannot be cancelled."""

    def __init__(self, release: anyio.Event) -> None:
        super().__init__()
        self.release, self.reached = release, anyio.Event()

    async def write(self, batch: Batch) -> Receipt:
        self.reached.set()
        with anyio.CancelScope(shield=True):
            await self.release.wait()
        return await super().write(batch)


async def test_unstoppable_chunk_is_abandoned_and_cannot_write() -> None:
    release = anyio.Event()
    deaf, sink, environment = Deaf(release), MemorySink(), Environment()
    plans = [linear_plan(MemorySource(SPLITS), one) for one in (deaf, sink)]
    async with Engine() as engine:
        patience = PatientUntil(**dataclasses.asdict(SHORT), event=deaf.reached), Patience()
        first, second = (
            Activities(engine, lambda *_, plan=plan: plan, patience=patience)
            for plan, patience in zip(plans, patience, strict=True)
        )
        await planned(first, environment)
        with anyio.fail_after(PATIENCE):
            with pytest.raises(ApplicationError) as raised:
                await environment.run(first.run_chunk, WHOLE)
            assert raised.value.type == "Stalled"
            result = await environment.run(second.run_chunk, WHOLE)
            release.set()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            left = [task for task in others if "Run.wait" in repr(task)]
            assert len(left) == 1
            await asyncio.wait(left)
        assert (await engine.store.tally("r")).written == TOTAL

    assert (result.done, result.counts.written) == (True, TOTAL)
    assert len(sink.records) == TOTAL


class Away(MemorySink):
    """A service that is not there."""

    calls = 0

    async def write(self, batch: Batch) -> Receipt:
        self.calls += 1
        raise TransientError("gone")


async def unserved(before: float, *, calls: float) -> ChunkResult:
    """A part of a chunk whose sink is away; the worker has to stop once that was called so often."""
    sink, environment = Away(), Environment()
    options = {"n1": NodeOptions(retry=RetryOptions(attempts=2, base=0.2, cap=0.2))}
    settings = Settings(outage_limit=3600.0)
    plan = linear_plan(MemorySource(SPLITS), sink, options=options, settings=settings)

    def beat(*details: Any) -> None:
        if sink.calls >= calls:
            environment.worker_shutdown()

    environment.on_heartbeat = beat
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan, patience=Patience(beat_every=0.01))
        await planned(activities, environment)
        with anyio.fail_after(PATIENCE):
            request = dataclasses.replace(WHOLE, outages={"n1": before} if before else {})
            return await environment.run(activities.run_chunk, request)


@pytest.mark.parametrize("before", [0.0, 100.0])
async def test_part_ending_in_an_outage_reports_its_total_length(before: float) -> None:
    result = await unserved(before, calls=10)

    assert (result.done, result.stopped, result.counts.written) == (False, True, 0)
    assert 0 < result.outage - before < PATIENCE
    assert list(result.outages) == ["n1"]
    assert result.outages["n1"] >= result.outage


async def test_outage_limit_spans_the_parts_of_a_chunk() -> None:
    with pytest.raises(ApplicationError) as raised:
        await unserved(3600.0, calls=float("inf"))

    assert (raised.value.type, raised.value.non_retryable) == ("SinkUnavailable", True)
    assert str(raised.value).startswith("SinkUnavailable: 'n1' made no progress for 36")
    assert str(raised.value).endswith("last answer: gone")


SECRET = "a record's text"


@pytest.mark.parametrize(
    ("error", "kind", "final"),
    [
        (FatalError("no such key", kind="auth"), "AuthError", True),
        (FatalError("no such table"), "ConfigError", True),
        (ValueError(SECRET), "NodeFailed", False),
        (TransientError("busy", retry_after=7.0), "SinkUnavailable", True),
    ],
)
async def test_failures_have_a_type_but_no_cause(error: Exception, kind: str, final: bool) -> None:
    settings = Settings(outage_limit=0.0)
    plan = linear_plan(MemorySource(SPLITS), FaultySink([error] * 100), settings=settings)
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        environment = Environment()
        await planned(activities, environment)
        with pytest.raises(ApplicationError) as raised:
            await environment.run(activities.run_chunk, WHOLE)

    failure = raised.value
    assert (failure.type, failure.non_retryable) == (kind, final)
    assert failure.__cause__ is None
    assert failure.__suppress_context__ or failure.__context__ is None, "it would be written into the history"
    assert SECRET not in str(failure)
    assert failure.next_retry_delay is None


async def test_worker_bug_is_reported_with_its_place() -> None:
    def plans(pipeline: str, params: object) -> Plan:
        raise KeyError(SECRET)

    async with Engine() as engine:
        with pytest.raises(ApplicationError) as raised:
            await Environment().run(Activities(engine, plans).compile_plan, CompileRequest("r", "", "test"))

    assert raised.value.type == "InternalError"
    assert "KeyError at " in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


async def test_invalid_file_is_not_retried() -> None:
    def plans(pipeline: str, params: object) -> Plan:
        raise ConfigError("pipelines.yaml:3:1: unknown key")

    async with Engine() as engine:
        with pytest.raises(ApplicationError, match=r"pipelines\.yaml:3:1") as raised:
            await Environment().run(Activities(engine, plans).compile_plan, CompileRequest("r", "", "test"))

    assert (raised.value.type, raised.value.non_retryable) == ("ConfigError", True)


async def test_a_run_that_cannot_be_divided_is_not_begun(tmp_path: Path) -> None:
    nodes = "{read: {source: blob}, out: {sink: jsonl, with: {path: out.jsonl, mode: replace}}}"
    (tmp_path / "p.yaml").write_text(f"version: 1\npipelines: {{test: {{nodes: {nodes}}}}}")
    (plan,) = load(tmp_path / "p.yaml").values()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        with pytest.raises(ApplicationError, match="the sink `jsonl` has to write the whole run") as raised:
            await Environment().run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
        assert raised.value.non_retryable
        assert await engine.store.list_runs() == []


async def test_a_run_of_another_workflow_is_not_entered() -> None:
    plan, environment = linear_plan(MemorySource(SPLITS), MemorySink()), Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/first", "test"))
        again = await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/first", "test"))
        with pytest.raises(ApplicationError, match="etl/test/first") as raised:
            await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/second", "test"))
        request = FinalizeRequest("r", "test", "failed", "RunExists", "etl/test/second")
        await environment.run(activities.finalize_run, request)
        record = await engine.store.get_run("r")

    assert again.run_id == "r"
    assert (raised.value.type, raised.value.non_retryable) == ("RunExists", True)
    assert (record.status, record.error) == (RunStatus.RUNNING, "")


async def test_a_second_attempt_may_find_its_run_started(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, environment = linear_plan(MemorySource(SPLITS), MemorySink()), Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))

        async def nothing(run_id: str) -> None:
            return None

        monkeypatch.setattr(activities, "_known", nothing)  # the other attempt began it after this had looked
        compiled = await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/r", "test"))
        with pytest.raises(ApplicationError) as raised:
            await environment.run(activities.compile_plan, CompileRequest("r", "etl/test/other", "test"))

    assert compiled.run_id == "r"
    assert raised.value.type == "RunExists"


@pytest.mark.parametrize(
    ("request_", "whose"),
    [
        (CompileRequest("r", "", "test", identity="another"), "submitted"),
        (CompileRequest("r", "", "test", resume=True), "begun"),
    ],
)
async def test_workers_with_a_different_file_do_nothing(request_: CompileRequest, whose: str) -> None:
    plan = linear_plan(MemorySource(SPLITS), MemorySink())
    async with Engine() as engine:
        await engine.begin(dataclasses.replace(plan, identity="yet another"), run_id="r")
        activities = Activities(engine, lambda pipeline, params: plan)
        with pytest.raises(ApplicationError, match=f"was {whose} with plan") as raised:
            await Environment().run(activities.compile_plan, request_)

    assert (raised.value.type, raised.value.non_retryable) == ("PlanMismatch", True)


async def test_chunk_held_elsewhere_is_retried_before_the_lease_ends() -> None:
    plan, environment = linear_plan(MemorySource(SPLITS), MemorySink()), Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        now, until = "2026-01-01T00:00:00.000Z", "9999-01-01T00:00:00.000Z"
        await engine.store.acquire_lease("r", "another:1:x", now=now, until=until, chunk="n0/0+4")
        with pytest.raises(ApplicationError) as raised:
            await environment.run(activities.run_chunk, WHOLE)

    assert (raised.value.type, raised.value.non_retryable) == ("LeaseHeld", False)
    assert raised.value.next_retry_delay == timedelta(seconds=10)


async def test_run_with_splits_left_is_never_marked_completed() -> None:
    plan, environment = linear_plan(MemorySource(SPLITS), MemorySink()), Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        await environment.run(activities.run_chunk, ChunkRequest("r", "test", "test", "n0", 0, 3))
        result = await environment.run(activities.finalize_run, FinalizeRequest("r", "test"))
        record = await engine.store.get_run("r")

    assert (result.status, result.error) == ("failed", "1 of 4 splits are not done")
    assert record.status is RunStatus.FAILED


@pytest.mark.parametrize("status", ["failed", "interrupted"])
async def test_run_completed_elsewhere_stays_completed(status: str) -> None:
    environment = Environment()
    async with Engine() as engine:
        plan = linear_plan(MemorySource(SPLITS), MemorySink())
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        completed = await engine.run(plan, resume=await engine.store.get_run("r"))
        assert completed.ok
        request = FinalizeRequest("r", "test", status, "10 chunks failed with LeaseHeld")
        result = await environment.run(activities.finalize_run, request)
        record = await engine.store.get_run("r")

    assert (result.status, result.error, result.counts.written) == ("completed", "", TOTAL)
    assert (record.status, record.error) == (RunStatus.COMPLETED, "")


@dataclasses.dataclass
class Posted:
    """What was posted about ends of runs."""

    messages: list[dict[str, Any]]
    then: Callable[[], None] = dataclasses.field(default=lambda: None)

    async def __call__(self, url: str, id_: str, message: dict[str, Any]) -> str:
        self.messages.append({**message, "url": url})
        self.then()
        return ""


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> Posted:
    made = Posted([])
    monkeypatch.setattr(notifying, "_post", made)
    return made


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (FinalizeRequest("r", "test"), "completed"),
        (FinalizeRequest("r", "test", "failed", "no", kind="InternalError"), "failed"),
        (FinalizeRequest("r", "test", "failed", "away", kind="SinkUnavailable"), "outage"),
        (FinalizeRequest("r", "test", "interrupted", "cancelled"), ""),
    ],
)
async def test_the_end_of_a_durable_run_is_reported(
    posted: Posted, request_: FinalizeRequest, told: str
) -> None:
    notify = Notify("http://127.0.0.1:9/x", frozenset({"completed", "failed", "outage"}))
    plan = linear_plan(MemorySource(SPLITS), MemorySink(), settings=Settings(notify=notify))
    environment = Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        await environment.run(activities.run_chunk, WHOLE)
        await environment.run(activities.finalize_run, request_)

    found = [(one["status"], one["run_id"], one["written"], one["url"]) for one in posted.messages]
    assert found == ([(told, "r", TOTAL, notify.url)] if told else [])


async def test_an_end_whose_telling_was_killed_is_reported_again(posted: Posted) -> None:
    notify = Notify("http://127.0.0.1:9/x", frozenset({"completed"}))
    plan = linear_plan(MemorySource(SPLITS), MemorySink(), settings=Settings(notify=notify))
    environment = Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        await environment.run(activities.run_chunk, WHOLE)
        for attempt in (1, 2):
            environment.info = dataclasses.replace(environment.info, attempt=attempt)
            await environment.run(activities.finalize_run, FinalizeRequest("r", "test"))

    assert [one["status"] for one in posted.messages] == ["completed", "completed"]


async def test_a_posted_result_that_cannot_be_deleted_is_stored(
    posted: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise StateError("no answer")

    notify = Notify("http://127.0.0.1:9/x", frozenset({"failed"}))
    plan = linear_plan(MemorySource(SPLITS), MemorySink(), settings=Settings(notify=notify))
    environment = Environment()
    async with Engine() as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        monkeypatch.setattr(engine.store, "delete_notification", fail)
        ended = await environment.run(activities.finalize_run, FinalizeRequest("r", "test", "failed", "x"))
        assert (ended.status, len(posted.messages)) == ("failed", 1)
        assert [one.run_id for one in await engine.store.notifications()] == ["r"]


async def test_a_result_that_was_not_accepted_is_posted_later(posted: Posted) -> None:
    notify = Notify("http://127.0.0.1:9/x", frozenset({"outage"}))
    plan = linear_plan(MemorySource(SPLITS), MemorySink(), settings=Settings(notify=notify))
    environment, clock = ActivityEnvironment(), ScriptedClock()
    async with Engine(clock=clock) as engine:
        activities = Activities(engine, lambda pipeline, params: plan)
        await planned(activities, environment)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(notifying, "_post", refusing)
            patch.setattr(notifying, "_FIRST_BACKOFF", 0)
            away = FinalizeRequest("r", "test", "failed", "away", kind="SinkUnavailable")
            await environment.run(activities.finalize_run, away)
        assert posted.messages == []
        assert [one.run_id for one in await engine.store.notifications()] == ["r"]

        with anyio.CancelScope() as scope:
            posting = notifying.post_periodically
            posted.then = scope.cancel
            await posting(engine.store, clock, activities.plans_of, null_observer, older=timedelta())
        assert [(one["status"], one["run_id"]) for one in posted.messages] == [("outage", "r")]
        assert await engine.store.notifications() == []


async def refusing(*_: object) -> str:
    return "it answered 503"


async def test_a_file_changed_since_ends_the_run_all_the_same(posted: Posted) -> None:
    plan, environment = linear_plan(MemorySource(SPLITS), MemorySink()), Environment()

    def plans(pipeline: str, params: object) -> Plan:
        if ended:
            raise ConfigError("no pipeline of this name")
        return plan

    ended = False
    async with Engine() as engine:
        activities = Activities(engine, plans)
        await planned(activities, environment)
        ended = True
        result = await environment.run(activities.finalize_run, FinalizeRequest("r", "test", "failed", "no"))

    assert (result.status, posted.messages) == ("failed", [])
