"""Whole runs with fakes: every record is written or accounted for."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest

from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.contract.batch import Batch, Drop
from engine.contract.component import BatchLimits, Context, NoParams, Source
from engine.contract.keys import KeyList
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record
from engine.errors import (
    DeadLetterBudgetError,
    FatalError,
    NodeFailedError,
    OutageError,
    PipelineTimeoutError,
    RecordError,
    StateFullError,
    TransientError,
)
from engine.execution.engine import Engine
from engine.plan.model import DeadLetterSettings
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter, RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan, plan_of
from tests.unit.kernel.runs import QUICK, Apply, Wait, pages, run

pytestmark = pytest.mark.anyio


def double(batch: Batch) -> Batch:
    return batch.replace([record * 2 for record in batch.records])


def evens(batch: Batch) -> Batch:
    return batch.select([record % 2 == 0 for record in batch.records], "odd")


async def test_records_pass_fused_transforms_and_edges_in_order() -> None:
    sink = MemorySink()
    report = await run(linear_plan(MemorySource(pages(95)), Apply(evens), Wait(double), Apply(double), sink))

    assert report.ok
    assert sink.records == [record * 4 for record in range(0, 95, 2)]
    assert sink.keys == [f"all/{record}" for record in range(0, 95, 2)]
    assert (report.tally.read, report.tally.written, report.tally.drops) == (95, 48, {"n1: odd": 47})
    assert report.peak_bytes > 0


async def test_several_splits_are_read_at_once() -> None:
    sink = MemorySink()
    source = MemorySource({name: pages(20) for name in "abc"}, parallel=2)

    report = await run(linear_plan(source, sink))

    assert sorted(sink.keys) == sorted(
        f"{name}/{n + 20 * i}" for i, name in enumerate("abc") for n in range(20)
    )
    assert report.tally.read == report.tally.written == 60


async def test_a_node_with_two_branches_gives_each_of_them_everything() -> None:
    left, right = MemorySink(), MemorySink()
    plan = plan_of(
        {
            "source": (MemorySource(pages(30)), []),
            "double": (Apply(double), ["source"]),
            "evens": (Apply(evens), ["source"]),
            "left": (left, ["double"]),
            "right": (right, ["evens"]),
        }
    )

    report = await run(plan)

    assert left.records == [2 * record for record in range(30)]
    assert right.records == list(range(0, 30, 2))
    assert (report.tally.read, report.tally.forked, report.tally.written) == (30, 30, 45)


async def test_branches_that_meet_again_have_keys_of_their_own() -> None:
    sink = MemorySink()
    plan = plan_of(
        {
            "source": (MemorySource(pages(25)), []),
            "a": (Apply(double), ["source"]),
            "b": (Wait(double), ["source"]),
            "sink": (sink, ["a", "b"]),
        },
        options={"b": NodeOptions(key_suffix=":b")},
    )

    report = await run(plan)

    assert report.ok
    assert sorted(sink.keys) == sorted(f"all/{n}{suffix}" for n in range(25) for suffix in ("", ":b"))


async def test_a_suffix_on_a_source_and_inside_a_fused_segment() -> None:
    sink = MemorySink()
    plan = plan_of(
        {
            "source": (MemorySource([[1]]), []),
            "a": (Apply(double), ["source"]),
            "b": (Apply(double), ["a"]),
            "sink": (sink, ["b"]),
        },
        options={"source": NodeOptions(key_suffix="+s"), "a": NodeOptions(key_suffix="+a")},
    )

    await run(plan)

    assert sink.keys == ["all/0+s+a"]


async def test_a_sink_hands_on_what_it_has_taken() -> None:
    first = FaultySink(poison=lambda record: record == 3)
    second = MemorySink()

    report = await run(linear_plan(MemorySource(pages(10)), first, Apply(double), second))

    assert first.records == [n for n in range(10) if n != 3]
    assert second.records == [2 * n for n in range(10) if n != 3]
    assert (report.tally.read, report.tally.written, report.tally.dead) == (10, 9, 1)
    assert report.tally.delivered == {"n1": 9, "n3": 9}
    assert report.tally.deaths == {"n1": 1}


async def test_lists_fan_out_and_failures_of_single_records_stay_single() -> None:
    def split(batch: Batch) -> Batch:
        made = {0: [10, 20], 1: None, 2: RecordError("bad", kind="Bad"), 3: Drop("old"), 4: []}
        return batch.outcomes([made.get(record, record) for record in batch.records])

    store, sink = MemoryStateStore(), MemorySink()
    async with Engine(store=store) as engine:
        report = await engine.run(linear_plan(MemorySource(pages(8)), Apply(split), sink))
        letters = await store.dead_letters(DeadLetterFilter(run_id=report.run_id))

    assert sink.keys == ["all/0/0", "all/0/1", "all/5", "all/6", "all/7"]
    assert report.tally.balanced
    assert (report.tally.forked, report.tally.dropped, report.tally.dead) == (1, 3, 1)
    (letter,) = letters
    assert (letter.key, letter.node, letter.record, letter.error_type) == ("all/2", "n1", 2, "Bad")


async def test_failures_of_one_node_are_not_counted_again_at_the_next() -> None:
    """A filter that lets everything pass returns the very batch it was given."""

    def fail(batch: Batch) -> Batch:
        return batch.outcomes([RecordError("bad") if record == 1 else record for record in batch.records])

    everything = Apply(lambda batch: batch.select([True] * len(batch)))
    sink = MemorySink()

    report = await run(linear_plan(MemorySource(pages(5)), Apply(fail), everything, Wait(double), sink))

    assert report.ok
    assert sink.records == [0, 4, 6, 8]
    assert (report.tally.dead, report.tally.written) == (1, 4)


async def test_a_single_record_asks_for_another_try_of_itself_alone() -> None:
    seen: list[list[int]] = []

    def moody(batch: Batch) -> Batch:
        seen.append(batch.records)
        again = TransientError("busy")
        return batch.outcomes(
            [again if record == 2 and len(seen) < 3 else record for record in batch.records]
        )

    sink = MemorySink()
    plan = linear_plan(MemorySource(pages(4)), Apply(moody), sink)
    report = await run(plan, clock=ScriptedClock(jump=True))

    assert seen == [[0, 1, 2, 3], [2], [2]]
    assert sorted(sink.records) == [0, 1, 2, 3]
    assert report.tally.written == 4


async def test_batches_are_cut_for_the_node_that_asks() -> None:
    sink = MemorySink(limits=BatchLimits(records=7, linger=30))

    await run(linear_plan(MemorySource(pages(30)), sink))

    assert sink.batches == [7, 7, 7, 7, 2]
    assert sink.records == list(range(30))


async def test_concurrent_workers_lose_nothing_and_may_keep_the_order() -> None:
    class Uneven(Wait):
        concurrency = 4

        async def apply(self, batch: Batch) -> Batch:  # type: ignore[override]
            for _ in range(batch.records[0] * 7 % 11):
                await anyio.lowlevel.checkpoint()
            return batch

    for ordered in (False, True):
        sink = MemorySink()
        plan = plan_of(
            {
                "source": (MemorySource(pages(200)), []),
                "work": (Uneven(double), ["source"]),
                "sink": (sink, ["work"]),
            },
            options={"work": NodeOptions(ordered=ordered)},
        )
        report = await run(plan)
        assert sorted(sink.records) == list(range(200))
        assert report.nodes[1].workers == 4
        assert not ordered or sink.records == list(range(200))


@pytest.mark.slow
async def test_updates_of_one_key_never_overtake_each_other_among_workers() -> None:
    class Uneven(Wait):
        concurrency = 4

        async def apply(self, batch: Batch) -> Batch:  # type: ignore[override]
            for _ in range(batch.records[0] * 7 % 11):
                await anyio.lowlevel.checkpoint()
            return batch

    class Updates(MemorySource):
        distinct_keys = False

        async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
            async for batch in super().read(split, position, ctx):
                keys = [f"key-{one // 2 % 2}" if one % 2 else f"other-{one}" for one in batch.records]
                batch.keys = KeyList(keys)
                yield batch

    sink = MemorySink(workers=4)
    plan = plan_of(
        {
            "source": (Updates(pages(200, size=2)), []),
            "work": (Uneven(double), ["source"]),
            "sink": (sink, ["work"]),
        }
    )

    report = await run(plan)

    assert report.nodes[1].workers == 4
    assert sorted(sink.records) == list(range(200))
    for key in range(2):
        updates = [record for record in sink.records if record % 2 and record // 2 % 2 == key]
        assert updates == sorted(updates)


async def test_what_has_no_next_node_is_dropped_and_reported() -> None:
    report = await run(linear_plan(MemorySource(pages(10)), Apply(evens)))
    assert report.tally.drops == {"n1: odd": 5, "n1: no downstream node": 5}

    report = await run(linear_plan(MemorySource(pages(10))))
    assert report.tally.drops == {"n0: no downstream node": 10}


@pytest.mark.parametrize(
    ("settings", "stops"),
    [
        (DeadLetterSettings(max_count=4), True),
        (DeadLetterSettings(max_count=20), False),
        (DeadLetterSettings(max_share=0.05), True),
        (DeadLetterSettings(max_share=0.1), False),
    ],
)
async def test_more_dead_letters_than_allowed_stop_the_run(settings: DeadLetterSettings, stops: bool) -> None:
    sink = FaultySink(poison=lambda record: record % 10 == 9)

    report = await run(linear_plan(MemorySource(pages(200)), sink, dead_letters=settings))

    assert report.ok is not stops
    assert isinstance(report.failure, DeadLetterBudgetError) is stops
    if not stops:
        assert (report.tally.dead, report.dead_letters, report.tally.written) == (20, 20, 180)


async def test_a_share_counts_from_a_hundred_records_on() -> None:
    settings = DeadLetterSettings(max_share=0.2)
    sink = FaultySink(poison=lambda record: record < 20)

    report = await run(linear_plan(MemorySource(pages(110)), sink, dead_letters=settings))

    assert report.ok


async def test_the_budget_of_a_resumed_run_remembers_the_first_attempt() -> None:
    store, settings = MemoryStateStore(), DeadLetterSettings(max_count=5)
    down = FaultySink([None, FatalError("gone")], poison=lambda record: record < 4)
    again = FaultySink(poison=lambda record: record >= 18)
    async with Engine(store=store) as engine:
        first = await engine.run(linear_plan(MemorySource(pages(20)), down, dead_letters=settings))
        assert (first.tally.dead, first.status) == (4, RunStatus.FAILED)
        second = await engine.run(
            linear_plan(MemorySource(pages(20)), again, dead_letters=settings),
            resume=await store.get_run(first.run_id),
        )

    assert isinstance(second.failure, DeadLetterBudgetError)
    assert "6 dead letters" in second.error


async def test_dead_letters_are_forwarded_once_they_are_stored() -> None:
    store, forward = MemoryStateStore(), FaultySink([TransientError("503")])
    (node,) = linear_plan(forward).nodes
    plan = linear_plan(
        MemorySource(pages(10)),
        FaultySink(poison=lambda record: record == 4),
        dead_letters=DeadLetterSettings(forward=node),
    )
    async with Engine(store=store, clock=ScriptedClock(jump=True)) as engine:
        report = await engine.run(plan)

    assert report.tally.dead == 1
    assert [row["key"] for row in forward.records] == ["all/4"]


async def test_rejected_copies_of_dead_letters_are_reported() -> None:
    (node,) = linear_plan(FaultySink(poison=lambda letter: letter["key"] == "all/4")).nodes
    plan = linear_plan(
        MemorySource(pages(10)),
        FaultySink(poison=lambda record: record in (3, 4)),
        dead_letters=DeadLetterSettings(forward=node),
    )
    async with Engine() as engine:
        report = await engine.run(plan)

    assert report.forward is not None
    assert (report.ok, report.forward.records_in, report.forward.dead) == (True, 2, 1)
    assert list(report.forward.aggregate) == ["rejected: poison"]


async def test_permanently_failed_forward_stops_the_run() -> None:
    store = MemoryStateStore()
    (node,) = linear_plan(FaultySink([ZeroDivisionError("bug")])).nodes
    plan = linear_plan(
        MemorySource(pages(10)),
        FaultySink(poison=lambda record: record == 4),
        dead_letters=DeadLetterSettings(forward=node),
    )
    async with Engine(store=store) as engine:
        report = await engine.run(plan)
        assert len(await store.dead_letters(DeadLetterFilter())) == 1

    assert isinstance(report.failure, NodeFailedError)
    assert report.tally.dead == 0


async def test_a_source_that_breaks_continues_after_what_it_gave() -> None:
    broken: list[int] = []

    def fail(split: str, page: int) -> None:
        if page in (2, 4) and broken.count(page) < 3:
            broken.append(page)
            raise TransientError("reset")

    sink = MemorySink()
    plan = linear_plan(MemorySource(pages(60), fail=fail), sink)
    report = await run(plan, clock=ScriptedClock(jump=True))

    assert sink.records == list(range(60))
    assert broken == [2, 2, 2, 4, 4, 4]
    assert report.nodes[0].retries == 6


class Listed(Source[NoParams]):
    """A simple source that yields numbers and breaks at the given places, once each."""

    repeatable = True

    def __init__(self, count: int, breaks: dict[int, Exception]) -> None:
        super().__init__(NoParams())
        self.count = count
        self.breaks = breaks

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        for number in range(self.count):
            if number in self.breaks:
                raise self.breaks.pop(number)
            yield number


async def test_broken_plain_source_is_re_read_and_skips_known_records() -> None:
    sink = MemorySink()
    plan = linear_plan(Listed(50, {20: TransientError("reset"), 35: TransientError("reset")}), sink)
    report = await run(plan, clock=ScriptedClock(jump=True))

    assert report.ok
    assert sink.records == list(range(50))
    assert sink.keys == [f"test:n0/{n}" for n in range(50)]


async def test_a_source_that_stays_away_is_an_outage() -> None:
    def fail(split: str, page: int) -> None:
        if page == 2:
            raise TransientError("connection refused")

    sink = MemorySink()
    plan = linear_plan(MemorySource(pages(60), fail=fail), sink, settings=Settings(outage_limit=30.0))
    report = await run(plan, clock=ScriptedClock(jump=True))

    assert isinstance(report.failure, OutageError)
    assert (report.status, report.tally.written) == (RunStatus.OUTAGE, 20)


async def test_a_source_without_positions_is_not_read_twice() -> None:
    class Nowhere(MemorySource):
        async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
            yield Batch([1], ["a"])
            raise TransientError("reset")

    sink = MemorySink()
    sink.inline = True  # the first batch has arrived before the source breaks
    report = await run(linear_plan(Nowhere([[]]), sink))

    assert isinstance(report.failure, NodeFailedError)
    assert "position" in report.error
    assert sink.records == [1]


@pytest.mark.parametrize("where", ["source", "plain source", "transform", "async transform", "sink"])
async def test_a_bug_names_the_node_and_the_line(where: str) -> None:
    def bug(*_: object) -> None:
        raise KeyError("missing")

    def broken(batch: Batch) -> Batch:
        bug()
        return batch

    class BrokenSink(MemorySink):
        async def write(self, batch: Batch) -> None:  # type: ignore[override]
            bug()

    parts = {
        "source": [MemorySource(pages(5), fail=bug), MemorySink()],
        "plain source": [Listed(5, {3: KeyError("missing")}), MemorySink()],
        "transform": [MemorySource(pages(5)), Apply(broken), MemorySink()],
        "async transform": [MemorySource(pages(5)), Wait(broken), MemorySink()],
        "sink": [MemorySource(pages(5)), BrokenSink()],
    }
    guilty = {"source": "n0", "plain source": "n0"}.get(where, "n1")

    report = await run(linear_plan(*parts[where]))  # type: ignore[arg-type]

    assert isinstance(report.failure, NodeFailedError)
    assert report.failure.node == guilty
    assert "KeyError" in report.error
    assert "test_runs.py:" in report.error
    assert report.status is RunStatus.FAILED


@pytest.mark.parametrize(
    "wrong",
    [
        lambda batch: None,
        lambda batch: [1, 2],
        lambda batch: Batch([1, 2], ["a", "b"]),
    ],
    ids=["nothing", "a list", "a batch of its own"],
)
async def test_what_is_no_derived_batch_is_a_bug_and_not_a_loss(wrong: object) -> None:
    report = await run(linear_plan(MemorySource(pages(5)), Apply(wrong), MemorySink()))  # type: ignore[arg-type]

    assert isinstance(report.failure, NodeFailedError)
    assert report.failure.node == "n1"
    assert report.tally.written == report.tally.dropped == 0


async def test_gravest_of_several_failures_in_a_component_wins() -> None:
    errors: list[Exception] = [
        ExceptionGroup("tasks", [TransientError("a"), TransientError("b", retry_after=3.0)]),
        ExceptionGroup("tasks", [TransientError("a"), FatalError("wrong key")]),
    ]
    sink, clock = FaultySink(errors), ScriptedClock(jump=True)

    report = await run(linear_plan(MemorySource(pages(5)), sink), clock=clock)

    assert clock.slept[0] == 3.0
    assert isinstance(report.failure, NodeFailedError)
    assert "wrong key" in report.error


async def test_a_fatal_error_stops_the_run_with_its_own_words() -> None:
    sink = FaultySink([None, FatalError("the key was refused")])

    report = await run(linear_plan(MemorySource(pages(30)), sink))

    assert report.error == "node 'n1' failed: the key was refused"
    assert report.tally.written == 10


async def test_an_outage_stops_the_run_with_no_dead_letter() -> None:
    class Down(FaultySink):
        async def write(self, batch: Batch) -> None:  # type: ignore[override]
            if self.records:
                raise TransientError("connection refused")
            await super().write(batch)

    store = MemoryStateStore()
    async with Engine(store=store, clock=ScriptedClock(jump=True)) as engine:
        report = await engine.run(linear_plan(MemorySource(pages(50)), Down()))

    assert (report.status, report.dead_letters, report.tally.written) == (RunStatus.OUTAGE, 0, 10)


async def test_one_poison_record_among_healthy_traffic_fails_alone() -> None:
    sink = FaultySink(poison=lambda record: record == 123, poison_is_transient=True, workers=3)

    report = await run(linear_plan(MemorySource(pages(300)), sink), clock=ScriptedClock(jump=True))

    assert report.ok
    assert (report.tally.dead, report.tally.written) == (1, 299)
    assert sorted(sink.records) == [n for n in range(300) if n != 123]


class _Full(MemoryStateStore):
    """A store that is full when it is to keep this."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    async def commit(self, *args: object, **options: object) -> None:
        if self.what == "commit":
            raise StateFullError("no space left")
        await super().commit(*args, **options)  # type: ignore[arg-type]

    async def put_dead_letters(self, letters: object, **options: object) -> None:
        if self.what == "letters":
            raise StateFullError("no space left")
        await super().put_dead_letters(letters, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["commit", "letters"])
async def test_a_store_that_fails_stops_the_run(what: str) -> None:
    class Endless(Listed):
        async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
            number = 0
            while True:
                await anyio.lowlevel.checkpoint()
                yield number
                number += 1

    sink = FaultySink(poison=lambda record: record == 5)
    async with Engine(store=_Full(what)) as engine:
        with anyio.fail_after(300):
            report = await engine.run(linear_plan(Endless(0, {}), sink))

    assert isinstance(report.failure, StateFullError)
    assert report.tally.dead == 0 or what == "commit"


async def test_component_reopens_after_a_transient_failure() -> None:
    class Shy(MemorySink):
        opened = closed = 0

        async def __aenter__(self) -> Shy:
            self.opened += 1
            if self.opened < 3:
                raise TransientError("not yet")
            return self

        async def __aexit__(self, *_: object) -> None:
            self.closed += 1

    sink = Shy()
    report = await run(linear_plan(MemorySource(pages(5)), sink), clock=ScriptedClock(jump=True))

    assert report.ok
    assert (sink.opened, sink.closed) == (3, 1)


async def test_a_component_that_fails_to_close_fails_the_run_by_name() -> None:
    class Leaky(MemorySink):
        async def __aexit__(self, *_: object) -> None:
            raise OSError("flush failed")

    report = await run(linear_plan(MemorySource(pages(5)), Leaky()))

    assert isinstance(report.failure, NodeFailedError)
    assert (report.failure.node, "flush failed" in report.error) == ("n1", True)


async def test_a_run_that_takes_too_long_is_stopped_and_can_be_resumed() -> None:
    sink = MemorySink(stall=anyio.Event())

    late = linear_plan(MemorySource(pages(5)), sink, settings=Settings(timeout=0.05))
    report = await run(late, drain_limit=0.05)

    assert isinstance(report.failure, PipelineTimeoutError)
    assert report.status.resumable


async def test_two_runs_in_one_loop_do_not_touch_each_other() -> None:
    good, bad = MemorySink(), FaultySink([FatalError("no")])
    reports = {}
    async with Engine() as engine:

        async def one(name: str, sink: MemorySink) -> None:
            reports[name] = await engine.run(linear_plan(MemorySource(pages(500)), Wait(double), sink))

        async with anyio.create_task_group() as group:
            group.start_soon(one, "good", good)
            group.start_soon(one, "bad", bad)

    assert reports["good"].ok
    assert good.records == [2 * n for n in range(500)]
    assert reports["bad"].status is RunStatus.FAILED
    assert reports["good"].run_id != reports["bad"].run_id


async def test_retry_options_and_stats_are_the_nodes_own() -> None:
    sink = FaultySink([TransientError("1"), TransientError("2")])
    plan = plan_of(
        {"source": (MemorySource(pages(5)), []), "sink": (sink, ["source"])},
        options={"sink": NodeOptions(retry=RetryOptions(attempts=5, base=0.0, cap=0.0))},
    )
    report = await run(plan)

    assert (sink.calls, report.nodes[1].retries, report.nodes[1].records_out) == (3, 2, 5)
    assert QUICK.retry.attempts == 2


async def test_unusual_records_can_die() -> None:
    strange = [{"big": 1 << 80}, {"bad": "\ud800"}, {1, 2}, {"bytes": b"\xff"}, {"nested": [{"a": 1 << 70}]}]
    strange.append({})
    strange[-1]["self"] = strange[-1]  # type: ignore[index]
    store = MemoryStateStore()
    async with Engine(store=store) as engine:
        report = await engine.run(
            linear_plan(MemorySource([strange]), FaultySink(poison=lambda record: True))
        )
        letters = await store.dead_letters(DeadLetterFilter())

    assert report.ok
    assert (report.tally.dead, len(letters)) == (6, 6)
    assert letters[0].record == {"big": 1 << 80}


async def test_the_snapshot_of_a_running_run_says_what_it_waits_for() -> None:
    stall = anyio.Event()
    async with Engine() as engine:
        async with engine.start(linear_plan(MemorySource(pages(200)), MemorySink(stall=stall))) as going:

            async def watch() -> None:
                with anyio.fail_after(300):
                    while going.snapshot().waits_for != "n1":  # noqa: ASYNC110 - nothing announces it
                        await anyio.sleep(0.001)
                snapshot = going.snapshot()
                assert snapshot.bytes_in_flight > 0
                assert snapshot.tally.read > snapshot.tally.written == 0
                stall.set()

            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                report = await going.wait()

    assert report.tally.written == 200


class Keeps(Apply):
    """Gives back what it was given, and says so."""

    @property
    def keeps_ids(self) -> bool:
        return True


@pytest.mark.parametrize(("kind", "replay"), [(Keeps, False), (Apply, True)])
async def test_fresh_ids_require_that_no_transform_changes_them(kind: type[Apply], replay: bool) -> None:
    sink = MemorySink()
    await run(linear_plan(MemorySource(pages(10)), kind(lambda batch: batch), sink))
    assert sink.replays == [replay]
