"""Files of records to JSON lines: processor time beside plain loops, records a second, and memory."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import figures
from benchmarks.conversions import Orders, by_loop, by_pipeline
from benchmarks.engine_commands import needs
from benchmarks.model import Arm, Benchmark, Goal, Scale

MEGABYTE = 1_000_000
LIBRARIES = ("orjson",)


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``formats_csv``, ``formats_jsonl`` and ``formats_memory``, each with processes of their own."""
    orders, tenth = Orders(scale.pick(1_000_000, 2_000)), Orders(scale.pick(100_000, 1_000))
    run = needs("run", pipelines=False)
    return [
        Benchmark(
            name="formats_csv",
            description=f"{orders.size:,} rows of a CSV file, their types found out, to JSON lines",
            arms=[
                Arm("csv.DictReader and orjson", command=by_loop(orders, "csv")),
                Arm(
                    "pipeline",
                    command=by_pipeline(orders, "csv"),
                    goals=[Goal(figures.RATE, ">=", 400_000)],
                    unavailable=run,
                ),
            ],
            reference="csv.DictReader and orjson",
            metric=figures.CPU,
            pairs=5,
            libraries=LIBRARIES,
        ),
        Benchmark(
            name="formats_jsonl",
            description=f"{orders.size:,} JSON lines to JSON lines",
            arms=[
                Arm("orjson loop", command=by_loop(orders, "jsonl")),
                Arm(
                    "pipeline",
                    command=by_pipeline(orders, "jsonl"),
                    goals=[Goal("ratio", "<=", 1.5)],
                    unavailable=run,
                ),
            ],
            reference="orjson loop",
            metric=figures.CPU,
            pairs=5,
            libraries=LIBRARIES,
        ),
        _memory(tenth, orders),
    ]


def _memory(small: Orders, large: Orders) -> Benchmark:
    run = needs("run", pipelines=False)
    bound, flat = Goal(figures.PEAK_RSS, "<=", 60 * MEGABYTE), Goal("difference", "<=", 6 * MEGABYTE)
    return Benchmark(
        name="formats_memory",
        description="peak resident size of such runs",
        arms=[
            Arm(
                f"{kind}, {orders.size:,} records",
                command=by_pipeline(orders, kind),
                goals=[bound] if orders is small else [bound, flat],
                unavailable=run,
            )
            for kind in ("csv", "jsonl")
            for orders in (small, large)
        ],
        reference=f"csv, {small.size:,} records",
        metric=figures.PEAK_RSS,
        comparison="difference",
        pairs=3,
        libraries=LIBRARIES,
    )
