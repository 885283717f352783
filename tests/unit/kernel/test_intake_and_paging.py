"""The intake of a node: batch sizes, workers, and pages of single records."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, Context, Kind, NoParams, Source
from engine.contract.split import Split
from engine.contract.types import Record
from engine.flow.budget import ByteBudget
from engine.flow.edge import CROWDED, Edge, Pacer
from engine.flow.paging import PAGE_BYTES, PAGE_RECORDS, RecordPager
from engine.flow.stats import NodeStats
from engine.flow.workers import BatchReader, Sequencer, work
from tests.unit.kernel.accounts import opened

pytestmark = pytest.mark.anyio


class Line:
    """An edge with an intake behind it that notes what comes out."""

    def __init__(self, limits: BatchLimits, buffer: int = 8) -> None:
        self.edge = Edge(buffer)
        self.edge.open_sender()
        self.budget = ByteBudget(100)
        self.out: list[list[int]] = []
        self.intake = BatchReader(self.edge, limits, self.budget, NodeStats("n", Kind.SINK, "sink"))

    async def read(self) -> None:
        async with aclosing(self.intake.batches()) as batches:
            async for batch in batches:
                self.out.append(batch.records)
        self.edge.close()


async def test_a_batch_waits_for_more_only_so_long() -> None:
    line = Line(BatchLimits(records=10, linger=0.01))
    async with anyio.create_task_group() as group:
        group.start_soon(line.read)
        line.edge.offer(opened(3)[0])
        while not line.out:  # noqa: ASYNC110 - nothing announces it
            await anyio.sleep(0.001)
        assert line.out == [[0, 1, 2]]
        line.edge.close_sender()


async def test_what_is_held_leaves_at_the_end_of_the_stream() -> None:
    line = Line(BatchLimits(records=10, linger=60))
    for _ in range(3):
        line.edge.offer(opened(4)[0])
    line.edge.close_sender()

    await line.read()

    assert [len(batch) for batch in line.out] == [10, 2]


async def test_what_is_held_leaves_as_soon_as_a_source_waits_for_bytes() -> None:
    line = Line(BatchLimits(records=10, linger=60))
    held = await line.budget.reserve(100)
    async with anyio.create_task_group() as group:
        group.start_soon(line.read)
        line.edge.offer(opened(3)[0])
        await wait_all_tasks_blocked()
        assert line.out == []
        group.start_soon(line.budget.reserve, 1)
        await wait_all_tasks_blocked()
        assert line.out == [[0, 1, 2]]
        line.edge.offer(opened(2)[0])  # and while it waits, nothing is held back at all
        await wait_all_tasks_blocked()
        assert line.out == [[0, 1, 2], [0, 1]]
        held.release()
        line.edge.close_sender()


async def test_a_batch_that_comes_with_the_interruption_is_not_lost() -> None:
    line = Line(BatchLimits(records=10, linger=60))
    async with anyio.create_task_group() as group:
        group.start_soon(line.read)
        line.edge.offer(opened(1)[0])
        await wait_all_tasks_blocked()
        for _ in range(20):
            line.edge.offer(opened(1)[0])  # both before the reader can run
            line.intake._interrupt()
            await wait_all_tasks_blocked()
        line.edge.close_sender()

    assert sum(map(len, line.out)) == 21


async def _feed(count: int) -> AsyncGenerator[Batch, None]:
    for number in range(count):
        yield Batch([number], [str(number)])


async def test_workers_pass_the_turnstile_in_the_order_of_their_tickets() -> None:
    turnstile, out, running = Sequencer(), [], 0

    def worker() -> Callable[[Batch, int], Awaitable[None]]:
        async def process(batch: Batch, ticket: int) -> None:
            nonlocal running
            running += 1
            for _ in range((7 * ticket) % 5):
                await checkpoint()
            await turnstile.wait(ticket)
            out.append(batch.records[0])
            turnstile.leave(ticket)
            running -= 1

        return process

    with anyio.fail_after(300):
        await work(_feed(30), [worker() for _ in range(4)])

    assert (out, running) == (list(range(30)), 0)


async def test_a_failing_worker_ends_the_others_and_the_stream() -> None:
    closed = []

    async def batches() -> AsyncGenerator[Batch, None]:
        try:
            while True:
                await checkpoint()
                yield Batch([1], ["1"])
        finally:
            closed.append(True)

    async def fail(batch: Batch, ticket: int) -> None:
        if ticket == 3:
            raise ValueError("a bug")

    with pytest.raises(ExceptionGroup):
        await work(batches(), [fail, fail])

    assert closed == [True]


class Plain(Source[NoParams]):
    """A simple source made of a generator function."""

    repeatable = True

    def __init__(self, generate: Callable[[], AsyncGenerator[Record | list[Record], None]]) -> None:
        super().__init__(NoParams())
        self.generate = generate

    def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        return self.generate()


async def _pages(
    generate: Callable[[], AsyncGenerator[Record | list[Record], None]],
    *,
    position: int | None = None,
    budget: ByteBudget | None = None,
    keep: int | None = None,
) -> list[Batch]:
    """All pages, or the first `keep`; each one's bytes are given back before the next is asked for."""
    budget = budget or ByteBudget(1 << 30)
    pager = RecordPager(Plain(generate), Split("all"), position, Context(node="n", memory_budget=budget))
    pages: list[Batch] = []
    async with anyio.create_task_group() as group:
        group.start_soon(pager.run)
        while (page := await pager.next()) is not None:
            assert page.reservation is not None
            page.reservation.release()
            pages.append(page)
            if len(pages) == keep:
                break
        group.cancel_scope.cancel()
    assert budget.in_use == 0
    return pages


async def _numbers(count: int, size: int = 0) -> AsyncGenerator[Record | list[Record], None]:
    for number in range(count):
        yield {"n": number, "text": "x" * size}


async def test_a_fast_source_is_cut_into_pages_by_count() -> None:
    pages = await _pages(lambda: _numbers(2000))

    assert [record["n"] for page in pages for record in page.records] == list(range(2000))
    assert [key for page in pages for key in page.keys.to_list()] == [f"n/{n}" for n in range(2000)]
    assert max(map(len, pages)) == PAGE_RECORDS
    assert [page.position for page in pages][-1] == 2000


async def test_a_page_is_no_larger_than_its_reservation_and_one_record() -> None:
    budget = ByteBudget(1 << 30)

    pages = await _pages(lambda: _numbers(40, size=300_000), budget=budget)

    assert sum(map(len, pages)) == 40
    assert max(page.nbytes for page in pages) <= PAGE_BYTES + 310_000
    assert budget.peak <= PAGE_BYTES + 310_000


@pytest.mark.slow
async def test_records_that_grow_by_and_by_are_noticed_within_a_page() -> None:
    async def growing() -> AsyncGenerator[Record | list[Record], None]:
        for number in range(400):
            yield {"n": number, "text": "x" * (10 if number < 200 else 500_000)}

    pages = await _pages(growing)

    assert sum(map(len, pages)) == 400
    for page in pages:
        assert sum(len(record["text"]) for record in page.records) <= 10 * 500_000


async def test_lists_are_cut_and_joined_like_single_records() -> None:
    async def lists() -> AsyncGenerator[Record | list[Record], None]:
        yield [{"n": n} for n in range(700)]
        yield []
        yield {"n": 700}
        yield [{"n": n} for n in range(701, 1500)]

    pages = await _pages(lists)

    assert [record["n"] for page in pages for record in page.records] == list(range(1500))
    assert max(map(len, pages)) <= PAGE_RECORDS


async def test_a_page_leaves_as_soon_as_the_source_waits() -> None:
    more = anyio.Event()

    async def slow() -> AsyncGenerator[Record | list[Record], None]:
        yield {"n": 0}
        yield {"n": 1}
        await more.wait()
        yield {"n": 2}

    with anyio.fail_after(300):
        pages = await _pages(slow, keep=1)

    assert [record["n"] for record in pages[0].records] == [0, 1]


async def test_what_was_read_before_an_error_is_delivered_before_it() -> None:
    async def breaking() -> AsyncGenerator[Record | list[Record], None]:
        yield {"n": 0}
        yield {"n": 1}
        raise LookupError("broken")

    seen: list[int] = []
    pager = RecordPager(Plain(breaking), Split("all"), None, Context())
    async with anyio.create_task_group() as group:
        group.start_soon(pager.run)
        with pytest.raises(LookupError, match="broken"):
            while (page := await pager.next()) is not None:
                seen += [record["n"] for record in page.records]

    assert seen == [0, 1]


@pytest.mark.parametrize("as_lists", [True, False])
async def test_a_resume_skips_what_was_read(as_lists: bool) -> None:
    async def lists() -> AsyncGenerator[Record | list[Record], None]:
        yield [{"n": n} for n in range(60)]
        yield [{"n": n} for n in range(60, 100)]

    pages = await _pages(lists if as_lists else lambda: _numbers(100), position=70)

    assert [record["n"] for page in pages for record in page.records] == list(range(70, 100))
    assert pages[0].keys.to_list()[0] == "n/70"
    assert pages[-1].position == 100


async def test_a_source_that_does_not_repeat_has_nothing_to_skip() -> None:
    source = Plain(lambda: _numbers(3))
    source.repeatable = False
    pager = RecordPager(source, Split("all"), 10, Context(seed="s"))
    async with anyio.create_task_group() as group:
        group.start_soon(pager.run)
        page = await pager.next()
        group.cancel_scope.cancel()

    assert page is not None
    assert (len(page), page.keys.to_list()[0], page.position) == (3, "s/10", 13)


async def test_nothing_is_read_without_a_reservation() -> None:
    made = 0

    async def counting() -> AsyncGenerator[Record | list[Record], None]:
        nonlocal made
        while True:
            made += 1
            yield {"text": "x" * 1_000_000}

    budget = ByteBudget(3_000_000)
    pager = RecordPager(Plain(counting), Split("all"), None, Context(memory_budget=budget))
    held: list[Batch | None] = []

    async def hold() -> None:
        while True:
            held.append(await pager.next())

    async with anyio.create_task_group() as group:
        group.start_soon(pager.run)
        group.start_soon(hold)
        await wait_all_tasks_blocked()
        assert budget.waiting
        group.cancel_scope.cancel()

    assert budget.peak <= 3_000_000 + 1_100_000
    assert len(held) <= made <= 4


async def test_a_sender_is_to_give_way_while_a_page_waits_after_it() -> None:
    edge = Edge(8)
    edge.open_sender()
    pacer = Pacer([edge])
    now = 0.0  # long before the pacer began: its time is not up
    edge.offer(opened(CROWDED - 1)[0])
    assert not pacer.due(now)
    edge.offer(opened(1)[0])
    assert pacer.due(now)
    edge.receive_nowait()
    assert not pacer.due(now)


async def test_busy_sides_of_an_edge_alternate_page_by_page() -> None:
    edge, waiting = Edge(8), []
    edge.open_sender()

    async def send() -> None:
        pacer = Pacer([edge])
        for _ in range(20):
            await edge.send(opened(CROWDED)[0])
            if pacer.due(0.0):
                await pacer.pause()
        edge.close_sender()

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        while await edge.wait():
            waiting.append(edge.held)
            edge.receive_nowait()

    assert sum(waiting) >= len(waiting) == 20
    assert max(waiting) <= 2  # trio lets them run in any order


async def test_waiting_at_an_edge_ends_with_its_last_sender() -> None:
    edge = Edge(8)
    edge.open_sender()
    async with anyio.create_task_group() as group:
        group.start_soon(edge.wait)
        await wait_all_tasks_blocked()
        edge.close_sender()
    assert not await edge.wait()
    with pytest.raises(anyio.EndOfStream):
        await edge.receive()
