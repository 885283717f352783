"""Splits loaded from the state store in pages."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from engine.contract.acks import Tally
from engine.contract.chunk import Chunk
from engine.contract.split import Split
from engine.execution import split_pages
from engine.execution.engine import Engine
from engine.execution.ledger import Ledger
from engine.execution.split_pages import SplitPages
from engine.state.memory import MemoryStateStore
from engine.state.records import Progress, RunRecord, SplitRecord
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import pages

pytestmark = pytest.mark.anyio

PAGE = 10
TOTAL = 2 * PAGE + 5
RUN = RunRecord("r", "p", "g", "i", {}, {}, {}, "s", "2026-01-01")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_pages, "PAGE", PAGE)


class Noting(MemoryStateStore):
    """Notes how many splits it has given out at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    async def splits(self, *args: Any, **kwargs: Any) -> tuple[list[SplitRecord], bool]:
        records, complete = await super().splits(*args, **kwargs)
        self.given.append(len(records))
        return records, complete


async def stored(store: MemoryStateStore, *, done: range = range(0)) -> None:
    """A run with so many splits, of which these are done."""
    await store.create_run(RUN)
    await store.add_splits("r", "n", [Split(str(n)) for n in range(TOTAL)], complete=True)
    await store.commit("r", [Progress("n", str(n), 1, True, Tally(read=1, written=1)) for n in done])


async def rest_of(splits: SplitPages) -> list[int]:
    found = []
    while (record := await splits.next()) is not None:
        found.append(int(record.split.key))
    return found


async def test_splits_come_in_order_a_page_at_a_time() -> None:
    async with Noting() as store:
        await stored(store)
        splits = SplitPages(store, Ledger(store, "r"), "r", "n", total=TOTAL)
        assert await rest_of(splits) == list(range(TOTAL))
        assert store.given == [PAGE, PAGE, 5]
        assert splits.exhausted


async def test_a_part_is_read_to_its_end_and_no_further() -> None:
    async with Noting() as store:
        await stored(store)
        part = SplitPages(store, Ledger(store, "r"), "r", "n", first=4, total=PAGE + 1)
        assert await rest_of(part) == list(range(4, 5 + PAGE))
        beyond = SplitPages(store, Ledger(store, "r"), "r", "n", first=TOTAL - 3, total=10)
        assert await rest_of(beyond) == list(range(TOTAL - 3, TOTAL))


@pytest.mark.parametrize("done", [range(PAGE + 2), range(TOTAL), range(PAGE, TOTAL)])
async def test_done_splits_are_counted_instead_of_read(done: range) -> None:
    async with Noting() as store:
        await stored(store, done=done)
        ledger = Ledger(store, "r")
        splits = SplitPages(store, ledger, "r", "n", total=TOTAL)
        assert await rest_of(splits) == [n for n in range(TOTAL) if n not in done]
        assert ledger.live().written == len(done)


async def test_done_splits_are_counted_when_reading_stops_early() -> None:
    async with Noting() as store:
        await stored(store, done=range(PAGE, TOTAL))
        ledger = Ledger(store, "r")
        splits = SplitPages(store, ledger, "r", "n", total=TOTAL)
        await splits.next()
        assert ledger.live().written == 0
        await splits.skip_done()
        assert ledger.live().written == TOTAL - PAGE


async def test_several_readers_share_the_splits() -> None:
    async with Noting() as store:
        await stored(store)
        splits, found = SplitPages(store, Ledger(store, "r"), "r", "n", total=TOTAL), list[int]()

        async def read() -> None:
            found.extend(await rest_of(splits))

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(read)
        assert sorted(found) == list(range(TOTAL))


@pytest.mark.parametrize("chunk", [True, False])
async def test_a_run_holds_one_page_of_manifests(chunk: bool) -> None:
    store, sink = Noting(), MemorySink()
    source = MemorySource({str(n): pages(1, first=n) for n in range(TOTAL)}, parallel=3)
    plan = linear_plan(source, sink)
    async with Engine(store=store) as engine:
        part = None
        if chunk:
            record = await engine.begin(plan)
            part = Chunk("n0", 0, TOTAL)
            async with engine.start(plan, resume=record, chunk=Chunk("n0", 0, 0)) as listing:
                assert await listing.list_splits("n0") == TOTAL
        async with engine.start(plan, resume=record if part else None, chunk=part) as run:
            assert (await run.wait()).ok

    assert len(sink.records) == TOTAL
    assert max(store.given) == PAGE
