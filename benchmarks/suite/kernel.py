"""The engine's own cost a record, against bare Python doing the same map and filter; and its loop lag."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import partial

from benchmarks.lag import idle
from benchmarks.model import Arm, Benchmark, Scale, Work
from benchmarks.workload import PAGE, Row, Tally, enrich, keep, pages, pool, records

REFERENCE = "generator chain"


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``kernel_throughput`` and ``kernel_lag``."""
    count = scale.pick(1_000_000, 20_000)
    source = pool()
    return [
        Benchmark(
            name="kernel_throughput",
            description=f"map and filter over {count:,} small dicts, counted and summed at the sink",
            arms=[
                Arm(REFERENCE, partial(generator_chain, source, count)),
                Arm("one generator", partial(one_generator, source, count)),
                Arm("page comprehension", partial(page_comprehension, source, count)),
                Arm("async generator chain", partial(async_generator_chain, source, count)),
            ],
            reference=REFERENCE,
        ),
        Benchmark(
            name="kernel_lag",
            description="delay of a 1 ms timer beside the kernel's work, above an idle loop",
            arms=[Arm("idle", partial(idle, scale.pick(1000, 100) / 1000), checked=False)],
            reference="idle",
            metric="lag_p999",
            comparison="difference",
            pairs=20,
        ),
    ]


def generator_chain(source: list[Row], count: int) -> Work:
    """The reference: one synchronous generator a step, the plainest way to stream."""

    def mapped(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            yield enrich(row)

    def filtered(rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            if keep(row):
                yield row

    tally = Tally()
    tally.add(filtered(mapped(records(source, count))))
    return tally.work(count)


def one_generator(source: list[Row], count: int) -> Work:
    """Both steps called in one generator: the chain fused by hand."""

    def stream() -> Iterator[Row]:
        for row in records(source, count):
            new = enrich(row)
            if keep(new):
                yield new

    tally = Tally()
    tally.add(stream())
    return tally.work(count)


def page_comprehension(source: list[Row], count: int) -> Work:
    """Both steps in a comprehension a page: what an engine working on pages could reach at best."""
    tally = Tally()
    for page in pages(source, count):
        tally.add([new for new in map(enrich, page) if keep(new)])
    return tally.work(count)


async def async_generator_chain(source: list[Row], count: int) -> Work:
    """One asynchronous generator a step, with a list a page at the sink."""

    async def read() -> AsyncIterator[Row]:
        for row in records(source, count):
            yield row

    async def mapped(rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
        async for row in rows:
            yield enrich(row)

    async def filtered(rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
        async for row in rows:
            if keep(row):
                yield row

    tally = Tally()
    page: list[Row] = []
    async for row in filtered(mapped(read())):
        page.append(row)
        if len(page) == PAGE:
            tally.add(page)
            page = []
    tally.add(page)
    return tally.work(count)
