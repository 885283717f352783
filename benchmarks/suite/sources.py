"""Records a second of the simulated sources, compared with Faker used in the obvious way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from benchmarks import figures
from benchmarks.model import Arm, Benchmark, Goal, Scale, Work

Row = dict[str, object]
NAIVE = "naive faker"
SEED = 1
# Each naive maker costs about 1 ms a record; the sources are measured over many more.
NAIVE_RECORDS = 1_000
SOURCE = "source"
SOURCE_RECORDS = 200_000


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``source_blob``, ``source_logs`` and ``source_events``."""
    count = scale.pick(NAIVE_RECORDS, 50)
    drawn_records = scale.pick(SOURCE_RECORDS, 2_000)
    return [
        Benchmark(
            name=f"source_{name}",
            description=f"records a second of the simulated source `{name}`; equal work is the set of fields",
            arms=[
                Arm(NAIVE, naive(name, count)),
                Arm(SOURCE, partial(source, name, drawn_records), goals=[Goal("rate", ">=", 100_000)]),
            ],
            reference=NAIVE,
            metric=figures.RATE,
            pairs=10,
            libraries=("faker",),
        )
        for name in ("blob", "logs", "events")
    ]


def naive(name: str, count: int) -> Callable[[], Work]:
    """Draws ``count`` records; Faker is imported and its providers are built in the warm-up round."""

    def run() -> Work:
        from benchmarks.naive_records import rows

        make = rows(SEED)[name]
        return drawn(make() for _ in range(count))

    return run


async def source(name: str, count: int) -> Work:
    """Reads the source as a pipeline does, page by page, building its pools of readable values."""
    from connectors.factory import ConnectorFactory
    from engine.contract.component import Context

    connector = ConnectorFactory.create(name, {"records": count, "seed": str(SEED)})
    context = Context(pipeline="benchmark", node=name)
    connector.ctx = context
    total, fields = 0.0, ""
    async with connector:
        async for split in connector.splits(context):
            async for batch in connector.read(split, None, context):
                work = drawn(batch.records)
                total, fields = total + work.count, work.checksum or ""
    return Work(total, fields)


def drawn(records: Iterable[Row]) -> Work:
    """Counts records; the checksum names the fields, which every record has to have."""
    count, fields = 0, None
    for record in records:
        count += 1
        if fields is None:
            fields = record.keys()
        elif record.keys() != fields:
            raise ValueError(f"record {count} has the fields {sorted(record)}, not {sorted(fields)}")
    return Work(count, ",".join(sorted(fields or ())))
