"""Verified runs: the figures agree with ledger and sinks, or differences are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest

from engine.contract.acks import Tally
from engine.contract.batch import Batch, Drop
from engine.contract.verification import Check, Delivered, Verdict
from engine.errors import FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.execution.verification import verify
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter, Progress, RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan, plan_of
from tests.unit.kernel.runs import Apply, pages

pytestmark = pytest.mark.anyio


class CountingSink(MemorySink):
    """Says how many records it has; `hidden` of them it does not find."""

    def __init__(self, hidden: int = 0, script: Sequence[Exception] = ()) -> None:
        super().__init__()
        self.hidden = hidden
        self.script = list(script)
        self.asked: list[Delivered] = []

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        self.asked.append(delivered)
        if self.script:
            raise self.script.pop(0)
        return [Check("records", delivered.records, len(self.records) - self.hidden)]


def fates(batch: Batch) -> Batch:
    """Of every ten records one is dropped, one is dead, and one becomes two."""
    made = {1: Drop("old"), 2: RecordError("no", kind="Refused"), 3: [3, 3]}
    return batch.outcomes([made.get(record % 10, record) for record in batch.records])


def mixed(sink: MemorySink, *, count: int = 40, source: MemorySource | None = None) -> Plan:
    return linear_plan(source or MemorySource(pages(count)), Apply(fates), sink)


def wrong(report: RunReport) -> list[tuple[str, str, int | None, int | None]]:
    return [(one.node, one.what, one.expected, one.found) for one in report.checks if not one.passed]


async def test_a_run_whose_figures_agree_is_verified() -> None:
    sink = CountingSink()
    async with Engine() as engine:
        report = await engine.run(mixed(sink), verify=True)

    assert (report.ok, report.verified, wrong(report)) == (True, True, [])
    assert {one.verdict for one in report.checks} == {Verdict.AGREES}
    assert sink.asked == [Delivered(records=36, here=36, died=0, unique=False)]
    assert {one["verdict"] for one in report.to_json()["checks"]} == {"agrees"}  # type: ignore[union-attr]


async def test_a_run_that_is_not_verified_asks_no_sink_and_reports_it() -> None:
    sink = CountingSink()
    async with Engine() as engine:
        report = await engine.run(mixed(sink))

    assert (report.verified, report.checks, sink.asked) == (None, (), [])
    assert report.to_json()["verified"] is None


async def test_a_resumed_run_is_compared_over_all_its_attempts() -> None:
    store, sink = MemoryStateStore(), CountingSink()
    source = MemorySource({"a": pages(50), "b": pages(50)})
    broken = FaultySink([None, None, FatalError("disk")])
    async with Engine(store=store) as engine:
        failed = await engine.run(mixed(broken, source=source), verify=True)
        sink.records += broken.records
        resume = await store.get_run(failed.run_id)
        report = await engine.run(mixed(sink, source=source), resume=resume, verify=True)

    assert (failed.status, failed.verified) == (RunStatus.FAILED, True)
    assert [(one.node, one.note) for one in failed.checks if one.verdict is Verdict.UNKNOWN] == [
        ("n2", "not asked: it may hold records that are not settled yet")
    ]
    assert (report.attempt, report.verified, wrong(report)) == (2, True, [])
    assert (sink.asked[0].records, sink.asked[0].here) == (90, 90 - len(broken.records))


async def test_a_drained_run_is_compared_as_far_as_it_got() -> None:
    sink = CountingSink()
    async with Engine() as engine:
        async with engine.start(mixed(sink, count=500), verify=True) as run:

            async def drain(run: Run) -> None:
                while not sink.records:
                    await anyio.lowlevel.checkpoint()
                run.drain()

            async with anyio.create_task_group() as group:
                group.start_soon(drain, run)
                report = await run.wait()

    assert (report.status, report.verified) == (RunStatus.INTERRUPTED, True)
    assert sink.asked[0].records == report.tally.written == len(sink.records)


async def test_a_drained_resume_asks_no_sink_what_a_killed_attempt_left() -> None:
    store, sink = MemoryStateStore(), CountingSink()
    async with Engine(store=store) as engine:
        failed = await engine.run(mixed(FaultySink([FatalError("disk")])))
        resume = await store.get_run(failed.run_id)
        async with engine.start(mixed(sink), resume=resume, verify=True) as run:
            run.drain()
            report = await run.wait()

    assert (report.status, sink.asked, wrong(report)) == (RunStatus.INTERRUPTED, [], [])
    assert report.checks[-1].note == "not asked: it may hold records that are not settled yet"


async def test_a_sink_that_has_fewer_records_than_it_took_is_named() -> None:
    async with Engine() as engine:
        report = await engine.run(mixed(CountingSink(hidden=1)), verify=True)

    assert (report.ok, report.verified) == (True, False)
    assert wrong(report) == [("n2", "records", 36, 35)]


async def test_every_sink_is_asked_for_its_own_records() -> None:
    first, second, third = CountingSink(), CountingSink(), CountingSink(hidden=2)
    plan = plan_of(
        {
            "source": (MemorySource(pages(20)), []),
            "stage": (first, ["source"]),
            "work": (Apply(fates), ["stage"]),
            "load": (second, ["work"]),
            "copy": (third, ["work"]),
        }
    )
    async with Engine() as engine:
        report = await engine.run(plan, verify=True)

    assert [sink.asked[0].records for sink in (first, second, third)] == [20, 18, 18]
    assert wrong(report) == [("copy", "records", 18, 16)]


async def test_a_sink_that_cannot_count_is_no_mismatch_and_is_said_so() -> None:
    async with Engine() as engine:
        report = await engine.run(mixed(MemorySink()), verify=True)

    (unknown,) = [one for one in report.checks if one.verdict is not Verdict.AGREES]
    assert (unknown.node, unknown.verdict, report.verified) == ("n2", Verdict.UNKNOWN, True)
    assert unknown.note == "the sink `n2` cannot report what it holds of a run"


async def test_a_sink_that_is_away_for_a_moment_is_asked_again() -> None:
    sink = CountingSink(script=[TransientError("503")] * 2)
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        report = await engine.run(mixed(sink), verify=True)

    assert (len(sink.asked), report.verified) == (3, True)


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (TransientError("503"), "503"),
        (FatalError("who are you?"), "node 'n2' failed: who are you?"),
        (KeyError("id"), "node 'n2' failed: KeyError at "),
    ],
)
async def test_failed_query_leaves_the_run_completed_but_unverified(problem: Exception, told: str) -> None:
    async with Engine(clock=ScriptedClock(jump=True)) as engine:
        report = await engine.run(mixed(CountingSink(script=[problem] * 9)), verify=True)

    (check,) = [one for one in report.checks if not one.passed]
    assert (report.ok, report.verified, check.verdict) == (True, False, Verdict.NOT_COUNTED)
    assert check.note.startswith(told)


async def test_copies_of_dead_letters_are_counted_where_they_go() -> None:
    def plan(forward: CountingSink) -> Plan:
        settings = DeadLetterSettings(forward=replace(linear_plan(forward).nodes[0], name="forward"))
        return replace(mixed(MemorySink()), dead_letters=settings)

    whole, short = CountingSink(), CountingSink(hidden=1)
    async with Engine() as engine:
        good = await engine.run(plan(whole), verify=True)
        bad = await engine.run(plan(short), verify=True)

    assert whole.asked == [Delivered(records=4, here=4, unique=True, letters=True)]
    assert (wrong(good), wrong(bad)) == ([], [("forward", "records", 4, 3)])


async def test_records_that_died_on_the_other_side_of_a_sink_are_told_apart() -> None:
    class Refusing(CountingSink):
        async def write(self, batch: Batch) -> None:  # type: ignore[override]
            raise RecordError("no", kind="Refused", stage="service" if batch.records[0] > 4 else "")

    sink = Refusing()
    async with Engine() as engine:
        await engine.run(linear_plan(MemorySource(pages(8, size=1)), sink), verify=True)

    assert (sink.asked[0].records, sink.asked[0].died) == (0, 3)


def edit(store: MemoryStateStore, statement: str, *values: str) -> None:
    """Change the tables behind the store's back."""
    connection = store._database._connection
    assert connection is not None
    connection.execute(statement, values)


class TestTampering:
    """Each kind of figure, changed after the run: the comparison that is about it has to notice."""

    async def compared(
        self, store: MemoryStateStore, report: RunReport, plan: Plan, **options: bool
    ) -> list[tuple[str, str, int | None, int | None]]:
        options = {"settled": True, "distinct_keys": True, **options}
        async with store:
            return wrong(replace(report, checks=await verify(store, plan, report, **options)))  # type: ignore[arg-type]

    async def ran(self, store: MemoryStateStore) -> tuple[RunReport, Plan]:
        plan = mixed(CountingSink())
        async with Engine(store=store) as engine:
            return await engine.run(plan), plan

    @pytest.mark.parametrize(
        ("status", "found"),
        [
            (RunStatus.INTERRUPTED, []),
            (RunStatus.COMPLETED, [("n1", "dead letters in the store", 4, 5)]),
        ],
    )
    async def test_letters_of_records_to_be_read_again_may_be_more(
        self, status: RunStatus, found: list[object]
    ) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        async with store:
            (letter, *_) = await store.dead_letters(DeadLetterFilter())
            await store.put_dead_letters([replace(letter, key="a killed attempt had it in flight")])
        report = replace(report, attempt=2, status=status, dead_letters=5)
        assert await self.compared(store, report, plan) == found

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (
                {"read": 41},
                [
                    ("", "written + dropped + dead, of all read and made", 45, 44),
                    ("", "read records in the ledger", 41, 40),
                ],
            ),
            (
                {"drops": {"n1: old": 3}},
                [
                    ("", "dropped records with a node and a reason", 4, 3),
                    ("n1", "records that the node dropped", 3, 4),
                ],
            ),
            (
                {"drops": {"n1: old": 3, "nowhere: old": 1}},
                [
                    ("", "dropped records with a node and a reason", 4, 3),
                    ("n1", "records that the node dropped", 3, 4),
                ],
            ),
            ({"drops": {"n1: ": 4}}, [("", "dropped records with a node and a reason", 4, 0)]),
            (
                {"delivered": {"n2": 35}},
                [
                    ("", "written records with a sink", 36, 35),
                    ("n2", "records that the sink passed on", 35, 36),
                ],
            ),
            (
                {"deaths": {"n1": 3}},
                [
                    ("", "dead records with a node", 4, 3),
                    ("n1", "records that died at the node", 3, 4),
                    ("n1", "dead letters in the store", 3, 4),
                ],
            ),
            ({"accepted": 1}, [("", "accepted records in the ledger", 1, 0)]),
        ],
        ids=["read", "a drop too few", "a drop of no node", "no reason", "delivered", "deaths", "accepted"],
    )
    async def test_in_the_report(
        self, change: dict[str, object], found: list[tuple[str, str, int, int]]
    ) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        tally = replace(report.tally, **change)  # type: ignore[arg-type]

        assert await self.compared(store, replace(report, tally=tally), plan) == found

    async def test_a_count_of_letters_in_the_report(self) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)

        assert await self.compared(store, replace(report, dead_letters=3), plan) == [
            ("", "open dead letters in the store", 3, 4)
        ]

    async def test_a_position_and_its_tally_in_the_ledger(self) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        async with store:
            await store.commit(
                report.run_id, [Progress("n0", "all", 3, False, Tally(read=30, written=30))], epoch=9
            )

        assert await self.compared(store, report, plan) == [
            ("", "read records in the ledger", 40, 30),
            ("", "forked records in the ledger", 4, 0),
            ("", "written records in the ledger", 36, 30),
            ("", "dropped records in the ledger", 4, 0),
            ("", "dead records in the ledger", 4, 0),
            ("n0", "splits that are done", 1, 0),
        ]

    async def test_a_list_of_splits_that_was_never_completed(self) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        edit(store, "UPDATE sources SET complete = 0")

        assert await self.compared(store, report, plan) == [("n0", "complete lists of what to read", 1, 0)]

    async def test_a_letter_that_is_gone_and_one_too_many(self) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        async with store:
            first, *_ = await store.dead_letters(DeadLetterFilter())
            edit(store, "DELETE FROM dead_letters WHERE node = ? AND key = ?", first.node, first.key)
            await store.put_dead_letters([replace(first, node="n2")])

        assert await self.compared(store, report, plan) == [
            ("n1", "dead letters in the store", 4, 3),
            ("n2", "dead letters in the store", 0, 1),
        ]

    async def test_a_letter_that_was_replayed_is_still_there(self) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        async with store:
            await store.mark_dead_letters(await store.dead_letters(DeadLetterFilter()), "replayed")

        assert await self.compared(store, replace(report, dead_letters=0), plan) == []

    async def test_records_of_one_key_may_share_but_need_a_dead_letter(self) -> None:
        store = MemoryStateStore()
        report, plan = await self.ran(store)
        async with store:
            letters = await store.dead_letters(DeadLetterFilter())
            for one in letters[:3]:
                edit(store, "DELETE FROM dead_letters WHERE node = ? AND key = ?", one.node, one.key)
        assert await self.compared(store, replace(report, dead_letters=1), plan, distinct_keys=False) == []

        edit(store, "DELETE FROM dead_letters")
        found = await self.compared(store, replace(report, dead_letters=0), plan, distinct_keys=False)
        assert found == [("n1", "dead letters in the store", 4, 0)]
