"""All runs of one invocation: concurrent, retried, followed, drained, cancelled."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from engine.cli.exit_codes import ExitCode
from engine.cli.local.resume import invocation_of, not_begun, unfinished
from engine.cli.local.run import exit_code
from engine.cli.local.signals import SignalWatch, stopping_signals
from engine.config import FileConfig, load_mapping
from engine.config.model import Notify, Settings
from engine.contract.batch import Batch
from engine.contract.component import Receipt
from engine.dead_letters.replay import REPLAY_GROUP
from engine.errors import (
    ConfigError,
    FatalError,
    LeaseLostError,
    RunNotFoundError,
    StateError,
    TransientError,
)
from engine.execution.engine import Engine
from engine.execution.session import Session, starting
from engine.plan.model import Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import Follower, RunRecord, RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan
from tests.unit.kernel.runs import TimeLimit

PAGES = [[{"n": 1}, {"n": 2}], [{"n": 3}]]
MANY_PAGES = [[{"n": number}] for number in range(200)]
"""More than fit on an edge, so that a run whose sink stalls is still reading."""


def plan(name: str, sink: MemorySink | None = None, **settings: object) -> Plan:
    pages = MANY_PAGES if isinstance(sink, StalledSink) else PAGES
    made = linear_plan(MemorySource(pages), sink or MemorySink(), settings=Settings(**settings))  # type: ignore[arg-type]
    return replace(made, pipeline=name)


def by_name(*plans: Plan) -> dict[str, Plan]:
    return {one.pipeline: one for one in plans}


async def test_all_pipelines_run_in_one_group_and_each_has_a_report() -> None:
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a"), plan("b")), ["a", "b"])
        await session.execute()
        assert {name: report.tally.written for name, report in session.reports.items()} == {"a": 3, "b": 3}
        assert {run.pipeline for run in await engine.store.list_runs(group_id=session.group_id)} == {"a", "b"}
        assert exit_code(session, 0) == 0


async def test_one_pipeline_that_fails_does_not_end_the_others() -> None:
    async with Engine() as engine:
        broken = plan("broken", FaultySink([FatalError("no such endpoint")]))
        session = Session(engine, by_name(broken, plan("sound")), ["broken", "sound"])
        await session.execute()
        assert session.reports["broken"].status is RunStatus.FAILED
        assert session.reports["sound"].ok
        assert exit_code(session, 0) == ExitCode.FAILED


@pytest.mark.parametrize(("failures", "completes"), [(0, True), (2, True), (3, False)])
async def test_a_failed_run_is_resumed_as_often_as_the_pipeline_says(
    failures: int, completes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.execution.session.FIRST_BACKOFF", 0.0)
    sink = FaultySink([OSError(f"failure {number}") for number in range(failures)])
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a", sink, retries=2)), ["a"])
        await session.execute()
        report = session.reports["a"]
        assert report.ok is completes
        assert report.attempt == min(failures, 2) + 1
        assert [run.attempt for run in await engine.store.list_runs()] == [report.attempt]
        assert sorted(record["n"] for record in sink.records) == ([1, 2, 3] if completes else [])


async def test_a_retry_that_cannot_be_does_not_hide_why_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.execution.session.FIRST_BACKOFF", 0.0)
    sink = FaultySink([OSError("the disk is full"), FatalError("it can be read only once")])
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a", sink, retries=2)), ["a"])
        await session.execute()
        error = session.reports["a"].error
    assert "read only once" in error
    assert "attempt 1 failed: node 'n1' failed: OSError: the disk is full" in error


async def test_failures_that_need_a_fix_are_not_retried() -> None:
    sink = FaultySink([FatalError("the token is wrong", kind="auth")])
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a", sink, retries=2)), ["a"])
        await session.execute()
    assert (session.reports["a"].attempt, sink.calls) == (1, 1)


async def test_timed_out_run_is_retried_with_a_new_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.execution.session.FIRST_BACKOFF", 0.0)
    limit = TimeLimit(monkeypatch)

    class SlowAtFirst(MemorySink):
        calls = 0

        async def write(self, batch: Batch) -> Receipt:
            self.calls += 1
            if self.calls == 1:
                limit.let_pass()
                await anyio.sleep_forever()
            return await super().write(batch)

    sink = SlowAtFirst()
    slow, after = plan("a", sink, retries=1, timeout=limit.SECONDS, on_complete=("b",)), plan("b")
    async with Engine(drain_limit=0.05) as engine:
        session = Session(engine, by_name(slow, after), ["a"])
        await session.execute()
    assert {name: report.ok for name, report in session.reports.items()} == {"a": True, "b": True}
    assert session.reports["a"].attempt == 2
    assert {record["n"] for record in sink.records} == {1, 2, 3}


async def test_nothing_follows_a_run_that_failed_or_timed_out() -> None:
    stuck = MemorySink(stall=anyio.Event())
    plans = by_name(
        plan("failed", FaultySink([FatalError("no")]), on_complete=("never",), on_cancel=("never",)),
        plan("late", stuck, timeout=0.05, on_complete=("never",), on_cancel=("never",)),
        plan("never"),
    )
    async with Engine(drain_limit=0.05) as engine:
        session = Session(engine, plans, starting(plans))
        await session.execute()
    assert list(session.reports) == ["failed", "late"]


async def test_a_drain_ends_the_wait_before_another_attempt() -> None:
    sink = FaultySink([OSError("first")])
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a", sink, retries=5)), ["a"])
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute)
            while not session.entries or not session.entries["a"].trouble:
                await anyio.lowlevel.checkpoint()
            session.drain()
        assert session.reports["a"].attempt == 1
        assert exit_code(session, 0) == ExitCode.FAILED


async def test_what_follows_a_pipeline_runs_once_it_has_completed() -> None:
    order: list[str] = []

    class Noting(MemorySink):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def __aexit__(self, *error: object) -> None:
            order.append(self.name)

    plans = by_name(
        plan("first", Noting("first"), on_complete=("second",), on_cancel=("tidy",)),
        plan("second", Noting("second"), on_complete=("first", "third")),
        plan("third", Noting("third")),
        plan("tidy", Noting("tidy")),
    )
    async with Engine() as engine:
        session = Session(engine, plans, ["first"])
        await session.execute()
        assert order == ["first", "second", "third"]
        assert list(session.reports) == ["first", "second", "third"]


class StalledSink(MemorySink):
    """Holds every batch until `gate` is set; `reached` says that one is there."""

    def __init__(self) -> None:
        self.gate = anyio.Event()
        self.reached = anyio.Event()
        super().__init__(stall=self.gate)

    async def write(self, batch: Batch) -> Receipt:
        self.reached.set()
        return await super().write(batch)


@pytest.mark.slow
async def test_drained_run_is_resumable_and_starts_on_cancel() -> None:
    sink = StalledSink()
    plans = by_name(plan("a", sink, on_cancel=("tidy",), on_complete=("never",)), plan("tidy"), plan("never"))
    async with Engine() as engine:
        session = Session(engine, plans, ["a"])
        said: list[str] = []
        watch = SignalWatch(session, said.append)
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute)
            await sink.reached.wait()
            watch._handle(2)
            sink.gate.set()
        assert said == ["draining: press Ctrl-C again to stop at once"]
        assert session.reports["a"].status is RunStatus.INTERRUPTED
        assert list(session.reports) == ["a", "tidy"]
        assert exit_code(session, watch.number) == ExitCode.INTERRUPTED
        left = await unfinished(engine.store, "", [])
        assert list(left) == ["a"]
        again = Session(engine, plans, ["a"], left)
        await again.execute()
        assert again.group_id == session.group_id
        assert again.reports["a"].ok
        assert again.reports["a"].tally.written == len(MANY_PAGES)
        assert sorted(record["n"] for record in sink.records) == list(range(len(MANY_PAGES)))


async def test_a_drain_reaches_a_run_that_is_just_starting() -> None:
    class Slow(MemoryStateStore):
        session: Session

        async def create_run(self, run: RunRecord, *, follows: Follower | None = None) -> None:
            await super().create_run(run, follows=follows)
            self.session.drain()

    sink = MemorySink()
    async with Engine(store=Slow()) as engine:
        session = engine.store.session = Session(engine, by_name(plan("a", sink)), ["a"])  # type: ignore[attr-defined]
        await session.execute()
    assert session.reports["a"].status is RunStatus.INTERRUPTED
    assert sink.records == []


FOLLOWING = {"a": ("b",), "b": ("c", "a"), "c": ("b",)}


def file_of(following: Mapping[str, tuple[str, ...]]) -> FileConfig:
    pipelines = {
        name: {"on_complete": list(names), "nodes": {"n": {"source": "blob"}}}
        for name, names in following.items()
    }
    return load_mapping({"version": 1, "pipelines": pipelines}, environ={})


async def test_drain_defers_followers_to_the_resume() -> None:
    class DrainedAtTheEnd(MemorySink):
        async def __aexit__(self, *error: object) -> None:
            session.drain()

    plans = by_name(*(plan(name, on_complete=names) for name, names in FOLLOWING.items()))
    first = plan("a", DrainedAtTheEnd(), on_complete=FOLLOWING["a"])
    async with Engine() as engine:
        session = Session(engine, {**plans, "a": first}, ["a"])
        await session.execute()
        assert session.reports["a"].ok
        assert (list(session.reports), session.put_off) == (["a"], {"b": "a"})
        assert exit_code(session, 0) == ExitCode.INTERRUPTED

        file, runs = file_of(FOLLOWING), await invocation_of(engine.store, "")
        late = await not_begun(engine.store, file, session.group_id, {}, [])
        assert late == [Follower(session.group_id, "b", runs[0].run_id)]
        assert await not_begun(engine.store, file, session.group_id, {}, ["c"]) == []
        assert await not_begun(engine.store, file, session.group_id, {"a": runs[0]}, []) == []
        assert await not_begun(engine.store, file, session.group_id, {"b": runs[0]}, []) == []
        assert await not_begun(engine.store, file_of({}), session.group_id, {}, []) == []
        begun = [run.pipeline for run in runs]
        again = Session(engine, plans, ["b"], begun=begun, group_id=session.group_id, late=late)
        await again.execute()
        assert list(again.reports) == ["b", "c"]  # and nothing runs twice in a group
        assert again.put_off == {}
        assert await engine.store.followers() == []


async def left_to_follow(engine: Engine) -> list[Follower]:
    """What a process that was killed at the end of a run has left to start."""
    record = await engine.begin(plan("a"), group_id="g")
    follower = Follower("g", "b", record.run_id)
    await engine.store.update_run(record.run_id, status=RunStatus.FAILED, followers=[follower])
    return await engine.store.followers()


async def test_two_processes_start_a_follower_once() -> None:
    async with Engine() as engine:
        late = await left_to_follow(engine)
        sessions = [Session(engine, by_name(plan("b")), ["b"], group_id="g", late=late) for _ in range(2)]
        async with anyio.create_task_group() as group:
            for session in sessions:
                group.start_soon(session.execute)
        reports = [session.reports["b"] for session in sessions]
        assert sorted(report.status for report in reports) == [RunStatus.COMPLETED, RunStatus.SKIPPED]
        assert [run.pipeline for run in await engine.store.list_runs()] == ["a", "b"]
        assert await engine.store.followers() == []


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The statuses of the results that a receiver has accepted."""
    accepted: list[object] = []

    async def post(url: str, id_: str, message: Mapping[str, object]) -> str:
        accepted.append(message["status"])
        return ""

    monkeypatch.setattr("engine.execution.notifying._post", post)
    return accepted


async def test_a_slow_end_does_not_store_a_follower_that_has_started(posted: list[object]) -> None:
    class SlowForB(MemoryStateStore):
        async def journal_cost(self, run_id: str, node: str = "") -> float:
            if run_id.startswith("b-"):
                await started.wait()
            return await super().journal_cost(run_id, node)

    class Following(MemorySink):
        async def write(self, batch: Batch) -> Receipt:
            started.set()
            return await super().write(batch)

    started, notify = anyio.Event(), Notify("http://127.0.0.1:9/x", frozenset({"completed"}))
    leading = [plan(name, on_complete=("c",), notify=notify) for name in ("a", "b")]
    async with Engine(store=SlowForB()) as engine:
        session = Session(engine, by_name(*leading, plan("c", Following())), ["a", "b"])
        await session.execute()
        assert sorted(run.pipeline for run in await engine.store.list_runs()) == ["a", "b", "c"]
        assert await engine.store.followers() == []
    assert posted == ["completed", "completed"]


@pytest.mark.parametrize("errors", [[], [FatalError("no such endpoint")]], ids=["completed", "failed"])
async def test_a_run_that_was_taken_over_has_no_result_here(
    errors: list[FatalError], posted: list[object]
) -> None:
    class TakenOver(FaultySink):
        async def write(self, batch: Batch) -> Receipt:
            now, until = (f"{year}-01-01T00:00:00Z" for year in (9000, 9001))
            await engine.store.acquire_lease(self.ctx.run_id, "elsewhere:1:x", now=now, until=until)
            return await super().write(batch)

    notify = Notify("http://127.0.0.1:9/x", frozenset({"failed"}))
    async with Engine() as engine:
        lost = plan("a", TakenOver(errors), on_failure=("b",), notify=notify)
        session = Session(engine, by_name(lost, plan("b")), ["a"])
        await session.execute()
        assert list(session.reports) == ["a"]
        assert isinstance(session.reports["a"].failure, LeaseLostError)
        assert "elsewhere:1:x took over" in session.reports["a"].error
    assert posted == []


async def test_a_follower_that_cannot_begin_is_given_up_with_a_report() -> None:
    async with Engine() as engine:
        late, busy = await left_to_follow(engine), plan("b", if_running="refuse")
        async with engine.start(busy) as under_way:
            session = Session(engine, by_name(busy), ["b"], group_id="g", late=late)
            await session.execute()
            assert under_way.run_id in session.reports["b"].error
        assert await engine.store.followers() == []


async def test_a_follower_of_a_retry_that_cannot_begin_starts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.execution.session.FIRST_BACKOFF", 0.0)

    class NotAgain(MemoryStateStore):
        async def get_run(self, run_id: str) -> RunRecord:
            raise StateError("out of order")

    sink = FaultySink([TransientError("away")] * 99)
    failing = plan("a", sink, retries=1, outage_limit=0, on_failure=("b",))
    async with Engine(store=NotAgain(), clock=ScriptedClock(jump=True)) as engine:
        session = Session(engine, by_name(failing, plan("b")), ["a"])
        await session.execute()
        assert "out of order" in session.reports["a"].error
        assert session.reports["b"].ok
        assert await engine.store.followers() == []


async def test_a_resumed_run_decides_again_what_follows_it() -> None:
    async with Engine() as engine:
        (left,) = await left_to_follow(engine)
        record = await engine.store.get_run(left.run_id)
        again = plan("a", on_failure=("b",))
        session = Session(engine, by_name(again, plan("b")), ["a"], {"a": record})
        await session.execute()
        assert list(session.reports) == ["a"]
        assert await engine.store.followers() == []


async def test_a_second_signal_cancels_what_the_first_one_drains() -> None:
    sink = StalledSink()
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a", sink, on_cancel=("tidy",)), plan("tidy")), ["a"])
        said: list[str] = []
        watch = SignalWatch(session, said.append)
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute)
            await sink.reached.wait()
            watch._handle(15)
            watch._handle(15)
        assert len(said) == 2
        assert list(session.reports) == ["a"]
        assert exit_code(session, watch.number) == 143


async def test_a_closed_terminal_drains_however_often_it_tells() -> None:
    sink = StalledSink()
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a", sink)), ["a"])
        said: list[str] = []
        watch = SignalWatch(session, said.append)
        async with anyio.create_task_group() as group:
            group.start_soon(session.execute)
            await sink.reached.wait()
            watch._handle(signal.SIGHUP)
            watch._handle(signal.SIGHUP)
            sink.gate.set()
        assert said == ["draining: send the signal again to stop at once"]
        assert exit_code(session, watch.number) == ExitCode.INTERRUPTED


@pytest.mark.parametrize(("handler", "stops"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_nohup_keeps_a_run_from_stopping(handler: signal.Handlers, *, stops: bool) -> None:
    before = signal.signal(signal.SIGHUP, handler)  # the tests themselves may run under `nohup`
    try:
        assert (signal.SIGHUP in stopping_signals()) is stops
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_a_drain_before_the_start_begins_nothing() -> None:
    async with Engine() as engine:
        session = Session(engine, by_name(plan("a")), ["a"])
        session.drain()
        await session.execute()
        assert session.reports == {}
        assert exit_code(session, 0) == ExitCode.INTERRUPTED
        assert await engine.store.list_runs() == []


async def test_resume_without_a_run_takes_the_latest_invocation() -> None:
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        with pytest.raises(RunNotFoundError):
            await unfinished(engine.store, "", [])
        broken = plan("broken", FaultySink([FatalError("x")]))
        first = Session(engine, by_name(broken), ["broken"], group_id="1")
        await first.execute()
        again = plan("broken", FaultySink([FatalError("x")]))
        second = Session(engine, by_name(again, plan("sound")), ["broken", "sound"], group_id="2")
        await second.execute()
        replayed = Session(engine, by_name(plan("replayed")), ["replayed"], group_id=f"{REPLAY_GROUP}3")
        await replayed.execute()

        left = await unfinished(engine.store, "", [])
        assert {name: run.group_id for name, run in left.items()} == {"broken": "2"}
        assert await unfinished(engine.store, "", ["sound"]) == {}
        earlier = first.reports["broken"].run_id
        assert (await unfinished(engine.store, earlier, []))["broken"].run_id == earlier
        assert list(await unfinished(engine.store, "1", [])) == ["broken"]
        with pytest.raises(ConfigError, match="has completed"):
            await unfinished(engine.store, second.reports["sound"].run_id, [])
        with pytest.raises(ConfigError, match="replay of dead letters"):
            await unfinished(engine.store, replayed.reports["replayed"].run_id, [])
