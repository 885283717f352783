"""Records that died in one attempt of a run stay dead in the next, without another call."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from engine.contract.batch import Batch
from engine.contract.component import Receipt
from engine.contract.journal import JournalEntry
from engine.errors import FatalError, RecordError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import Apply, pages

pytestmark = pytest.mark.anyio


class DownOnceALetterIsThere(MemorySink):
    """Takes nothing, and says so when something has died."""

    def __init__(self, store: MemoryStateStore) -> None:
        super().__init__()
        self._store = store

    async def write(self, batch: Batch) -> Receipt:
        while not await self._store.count_dead_letters(DeadLetterFilter()):
            await anyio.lowlevel.checkpoint()
        raise FatalError("disk")


class Refusing(Apply):
    """Refuses the number 4; remembers every number that it was asked about."""

    def __init__(self) -> None:
        super().__init__(self.decide)
        self.asked: list[int] = []

    def decide(self, batch: Batch) -> Batch:
        self.asked += batch.records
        return batch.outcomes(
            [RecordError("no", kind="Refused") if number == 4 else number for number in batch.records]
        )


def plan(node: Apply, sink: MemorySink, forward: MemorySink | None = None) -> Plan:
    settings = DeadLetterSettings(forward=linear_plan(forward).nodes[0] if forward else None)
    return linear_plan(MemorySource(pages(20)), node, sink, dead_letters=settings)


async def stopped_behind_the_letter(store: MemoryStateStore, forward: MemorySink | None = None) -> RunReport:
    """A run whose dead letter is stored and whose batch is not delivered."""
    async with Engine(store=store) as engine:
        report = await engine.run(plan(Refusing(), DownOnceALetterIsThere(store), forward))
    assert (report.tally.dead, report.dead_letters) == (0, 1)
    return report


async def test_record_with_a_stored_dead_letter_skips_its_node() -> None:
    store, node, sink = MemoryStateStore(), Refusing(), MemorySink()
    first = await stopped_behind_the_letter(store)
    async with Engine(store=store) as engine:
        report = await engine.run(plan(node, sink), resume=await store.get_run(first.run_id))
        (letter,) = await store.dead_letters(DeadLetterFilter())

    assert node.asked == sink.records == [number for number in range(20) if number != 4]
    assert (report.ok, report.tally.dead, report.dead_letters) == (True, 1, 1)
    assert (letter.error_type, letter.attempts) == ("Refused", 1)


async def test_it_stays_dead_even_where_its_node_would_let_it_pass_now() -> None:
    store, sink = MemoryStateStore(), MemorySink()
    first = await stopped_behind_the_letter(store)
    async with Engine(store=store) as engine:
        mended = plan(Apply(lambda batch: batch), sink)
        report = await engine.run(mended, resume=await store.get_run(first.run_id))

    assert 4 not in sink.records
    assert (report.tally.written, report.tally.dead, report.dead_letters) == (19, 1, 1)


async def test_a_copy_of_unknown_fate_is_forwarded_again() -> None:
    store, forward = MemoryStateStore(), MemorySink()
    first = await stopped_behind_the_letter(store, forward)
    async with Engine(store=store) as engine:
        again = plan(Refusing(), MemorySink(), forward)
        await engine.run(again, resume=await store.get_run(first.run_id))

    assert [row["key"] for row in forward.records] == ["all/4", "all/4"]


async def test_replayed_dead_letter_is_left_alone_by_a_resume() -> None:
    store, forward, sink = MemoryStateStore(), MemorySink(), MemorySink()
    first = await stopped_behind_the_letter(store)
    async with store:
        await store.mark_dead_letters(await store.dead_letters(DeadLetterFilter()), "replayed")
    async with Engine(store=store) as engine:
        again = plan(Apply(lambda batch: batch), sink, forward)
        report = await engine.run(again, resume=await store.get_run(first.run_id))

    assert (4 in sink.records, forward.records) == (False, [])
    assert (report.tally.dead, report.dead_letters) == (1, 0)


async def test_what_its_source_could_not_read_is_not_taken_a_second_time() -> None:
    class Torn(MemorySource):
        torn = True

        async def read(self, *args):  # type: ignore[no-untyped-def]
            async with aclosing(super().read(*args)) as batches:
                async for batch in batches:
                    if self.torn and 4 in batch.records:
                        batch.failures = [(4, RecordError("torn"))]
                    yield batch

    store, source, sink = MemoryStateStore(), Torn(pages(20)), MemorySink()
    async with Engine(store=store) as engine:
        first = await engine.run(linear_plan(source, DownOnceALetterIsThere(store)))
        source.torn = False
        resume = await store.get_run(first.run_id)
        report = await engine.run(linear_plan(source, sink), resume=resume)

    assert 4 not in sink.records
    assert (report.tally.dead, report.tally.written, report.dead_letters) == (1, 19, 1)


async def test_cost_of_a_dead_record_is_booked_by_the_next_attempt() -> None:
    store = MemoryStateStore()
    first = await stopped_behind_the_letter(store)
    async with store:
        (letter,) = await store.dead_letters(DeadLetterFilter(run_id=first.run_id))
    paid = JournalEntry(
        "q", "no", "Refused", tokens_in=70, tokens_out=30, cost_usd=0.5, record=letter.key,
        run_id=first.run_id, node="n1",
    )  # fmt: skip
    other = replace(paid, key="r", node="n9")
    async with Engine(store=store) as engine:
        await store.put_journal([paid, other, replace(paid, key="s", run_id="another")])
        record = await store.get_run(first.run_id)
        second = await engine.run(plan(Refusing(), MemorySink()), resume=record)

    assert second.ok
    tally = second.tally
    assert (tally.dead, tally.tokens_in, tally.tokens_out, tally.cost_usd) == (1, 70, 30, 0.5)
