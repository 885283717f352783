"""The engine's cost per record, against bare Python with the same map and filter; and its loop lag."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.lag import idle, loop_lag
from benchmarks.model import Arm, Benchmark, Goal, Scale, Work
from benchmarks.workload import PAGE, Row, Tally, enrich, keep, pages, pool, records

if TYPE_CHECKING:
    from engine.plan.model import Plan

REFERENCE = "generator chain"

ENGINE_PAGE = 512
"""Records in a page of the engine's arms: what the engine itself makes of records that come one by one."""


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
                Arm(
                    "engine fused",
                    partial(engine_run, source, count, inline=True),
                    goals=[Goal("ratio", "<=", 1.10)],
                ),
                Arm(
                    "engine one edge",
                    partial(engine_run, source, count, inline=False),
                    goals=[Goal("ratio", "<=", 1.15)],
                ),
            ],
            reference=REFERENCE,
        ),
        Benchmark(
            name="kernel_lag",
            description="delay of a 1 ms timer beside the kernel's work, above an idle loop",
            arms=[
                Arm("idle", partial(idle, scale.pick(1000, 100) / 1000), checked=False),
                *(
                    Arm(
                        name,
                        partial(engine_lag, source, count, inline=inline),
                        checked=False,
                        goals=[Goal("difference", "<=", 0.005)],
                    )
                    for name, inline in (("engine fused", True), ("engine one edge", False))
                ),
            ],
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


async def engine_run(source: list[Row], count: int, *, inline: bool) -> Work:
    """A whole run: SQLite ledger, byte budget, acks and statistics on, functions as users write them.

    `inline`: the sink runs in the source's task; otherwise it stands behind an edge.
    """
    # only these arms need the engine; the others are to be read without it
    from engine.execution.engine import Engine

    tally = Tally()
    plan = kernel_plan(source, count, tally, inline=inline)
    with TemporaryDirectory() as state_dir:
        async with Engine(state_dir=state_dir) as engine:
            report = await engine.run(plan)
    if not (report.ok and report.tally.balanced and report.tally.written == tally.count):
        raise RuntimeError(f"the run did not add up: {report.error or report.tally}")
    return tally.work(count)


def kernel_plan(source: list[Row], count: int, tally: Tally, *, inline: bool) -> Plan:
    """The kernel's work as a plan; `inline` as above."""
    from engine.contract.batch import Batch
    from engine.contract.component import Context, NoParams, Sink, Source
    from engine.contract.keys import KeyRange
    from engine.contract.split import Split
    from engine.contract.types import JsonValue
    from engine.functions import FunctionFilter, FunctionTransform
    from engine.testing import linear_plan

    class PoolSource(Source[NoParams]):
        """The same pages as the other arms read, with keys and positions."""

        repeatable = True

        async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
            ordinal = 0
            for page in pages(source, count, ENGINE_PAGE):
                start, ordinal = ordinal, ordinal + len(page)
                yield Batch(page, KeyRange("kernel/", start, ordinal), position=ordinal)

    class TallySink(Sink[NoParams]):
        """Counts and sums."""

        async def write(self, batch: Batch) -> None:
            tally.add(batch.records)

    class InlineTallySink(TallySink):
        """The same, in its upstream's task."""

        inline = True

    return linear_plan(
        PoolSource(NoParams()),
        FunctionTransform(enrich),
        FunctionFilter(keep, "not kept"),
        (InlineTallySink if inline else TallySink)(NoParams()),
    )


async def engine_lag(source: list[Row], count: int, *, inline: bool) -> Work:
    """The timer's delay during the same run."""
    async with loop_lag() as recorder:
        work = await engine_run(source, count, inline=inline)
    return Work(work.count, work.checksum, recorder.figures())
