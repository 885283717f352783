"""Limits of a whole run: the share of dead letters, and the minimum input."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from engine.config.model import Settings
from engine.contract.acks import Tally
from engine.contract.batch import Batch
from engine.contract.types import Record
from engine.errors import DeadLetterBudgetError, InputMissingError, RecordError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.flow.limits import DEFAULT_WINDOW, WINDOW, DeathWatch
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import Apply, Wait, pages, run

pytestmark = pytest.mark.anyio

DEFAULT = DeadLetterSettings(max_share=0.5, implied=True)


def dying(count: int, dead: range, settings: DeadLetterSettings, size: int = 10) -> Plan:
    """A plan of `count` records, of which those in `dead` die."""

    def check(batch: Batch) -> Batch:
        return batch.outcomes([RecordError("bad") if one in dead else one for one in batch.records])

    source = MemorySource(pages(count, size=size))
    return linear_plan(source, Wait(check), MemorySink(), dead_letters=settings)


async def ended(plan: Plan) -> RunReport:
    with anyio.fail_after(300):
        return await run(plan)


@pytest.mark.parametrize(
    ("count", "dead", "fails"),
    [(1, 1, True), (2, 1, False), (2, 2, True), (3, 2, True), (50, 25, False), (50, 26, True), (0, 0, False)],
)
async def test_a_run_most_of_whose_records_died_has_failed(count: int, dead: int, fails: bool) -> None:
    report = await ended(dying(count, range(dead), DEFAULT))

    assert isinstance(report.failure, DeadLetterBudgetError) is fails
    if fails:
        assert report.error == (
            f"{dead} of {count} records died, 50% are allowed unless `dead_letters.max` is set"
        )
    assert (report.tally.read, report.tally.dead) == (count, dead)


@pytest.mark.parametrize(("dead", "fails"), [(5, False), (6, True), (50, True)])
async def test_a_share_counts_from_the_first_record_on(dead: int, fails: bool) -> None:
    report = await ended(dying(50, range(dead), DeadLetterSettings(max_share=0.1)))

    assert isinstance(report.failure, DeadLetterBudgetError) is fails
    assert report.tally.read == 50


@pytest.mark.slow
async def test_a_fault_of_everything_stops_a_run_that_began_well() -> None:
    count = 20 * WINDOW
    report = await ended(dying(count, range(18 * WINDOW, count), DeadLetterSettings(max_share=0.1), 50))

    assert isinstance(report.failure, DeadLetterBudgetError)
    assert "10% are allowed, and" in report.error
    assert report.tally.dead < WINDOW // 4
    assert report.tally.balanced


@pytest.mark.parametrize("size", [300, 350, 700, 1500])
def test_a_share_that_is_kept_stops_nothing_however_large_batches_are(size: int) -> None:
    """45 % of each batch die, whatever the window cuts."""
    watch, dead = DeathWatch(DeadLetterSettings(max_share=0.5)), size * 9 // 20
    for number in range(1, 12):
        seen = Tally(read=number * size, dead=number * dead)
        assert watch.exceeded("n", number * size, dead, size, seen, 0, seen) == ""


async def test_a_few_bad_records_in_a_row_stop_nothing() -> None:
    count = 10 * WINDOW
    bad = range(5 * WINDOW, 5 * WINDOW + WINDOW // 20)
    report = await ended(dying(count, bad, DeadLetterSettings(max_share=0.1), 50))

    assert report.ok
    assert report.tally.dead == WINDOW // 20


@pytest.mark.slow
async def test_a_share_is_of_what_was_read_and_not_of_what_a_filter_left() -> None:
    """One of ten records passes, and a third of these die: that is three in a hundred."""

    def some(batch: Batch) -> Batch:
        return batch.select([int(one) % 10 == 0 for one in batch.records])  # type: ignore[call-overload]

    def check(batch: Batch) -> Batch:
        return batch.outcomes([_third(one) for one in batch.records])

    def _third(one: Record) -> Record | RecordError:
        return RecordError("bad") if int(one) % 30 == 0 else one  # type: ignore[call-overload, no-any-return]

    source = MemorySource(pages(20 * WINDOW, size=100))
    settings = DeadLetterSettings(max_share=0.1)
    plan = linear_plan(source, Apply(some), Apply(check), MemorySink(), dead_letters=settings)

    assert (await ended(plan)).ok


@pytest.mark.slow
async def test_the_default_stops_a_long_run_whose_records_all_die() -> None:
    count = 2 * DEFAULT_WINDOW
    report = await ended(dying(count, range(count), DEFAULT, 500))

    assert isinstance(report.failure, DeadLetterBudgetError)
    assert report.tally.dead < count


async def test_a_stopped_run_can_be_resumed_when_all_is_well_again() -> None:
    store, settings = MemoryStateStore(), DeadLetterSettings(max_share=0.1)
    count = 4 * WINDOW
    async with Engine(store=store) as engine:
        with anyio.fail_after(300):
            first = await engine.run(dying(count, range(2 * WINDOW, count), settings, 50))
            record = await store.get_run(first.run_id)
            second = await engine.run(dying(count, range(0), settings, 50), resume=record)

    assert first.status is RunStatus.FAILED
    assert second.ok
    assert second.tally.dead == first.tally.dead > 0
    assert second.tally.written + second.tally.dead == count


async def test_too_few_records_make_a_run_fail() -> None:
    def plan(count: int) -> Plan:
        return linear_plan(MemorySource(pages(count)), FaultySink(), settings=Settings(min_records=5))

    report = await ended(plan(4))
    assert isinstance(report.failure, InputMissingError)
    assert report.error == "4 records were read, but the pipeline has `min_records: 5`"
    assert report.tally.written == 4
    assert (await ended(plan(5))).ok


async def test_a_source_that_finds_nothing_makes_a_run_fail() -> None:
    plan = linear_plan(MemorySource({}), MemorySink(), settings=Settings(require_match=True))

    report = await ended(plan)
    assert isinstance(report.failure, InputMissingError)
    assert report.error == "`n0` found nothing to read, but the pipeline has `require_match`"
    assert (await ended(replace(plan, settings=Settings()))).ok
