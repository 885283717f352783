"""Records a second of the simulated sources, beside Faker used the obvious way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks import figures
from benchmarks.model import Arm, Benchmark, Scale, Work

Row = dict[str, object]
NAIVE = "naive faker"
SEED = 1
# Each naive maker costs about 1 ms a record; the sources are measured over many more.
NAIVE_RECORDS = 1_000


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``source_blob``, ``source_logs`` and ``source_events``."""
    count = scale.pick(NAIVE_RECORDS, 50)
    return [
        Benchmark(
            name=f"source_{name}",
            description=f"records a second of the simulated source `{name}`; equal work is the set of fields",
            arms=[Arm(NAIVE, naive(name, count))],
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
