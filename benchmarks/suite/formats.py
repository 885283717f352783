"""Files of records to JSON lines: processor time compared with plain loops, records a second, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from benchmarks import figures
from benchmarks.conversions import Orders, by_loop, by_pipeline
from benchmarks.engine_commands import needs
from benchmarks.large_object import reading
from benchmarks.model import Arm, Benchmark, Goal, Scale

MEGABYTE = 1_000_000
LIBRARIES = ("orjson",)


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``formats_csv``, ``_jsonl``, ``_memory`` and ``_object``, each with processes of their own."""
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
        _large_object(scale.pick(10_000_000, 500_000), scale.pick(1_000_000_000, 1_000_000)),
    ]


def _large_object(small: int, large: int) -> Benchmark:
    flat = Goal("difference", "<=", 4 * MEGABYTE)
    return Benchmark(
        name="formats_object",
        description="peak resident size of reading one object of S3 as JSON lines, also from its middle",
        arms=[
            Arm(f"{small:,} bytes", command=reading(small), unavailable=needs_s3),
            Arm(f"{large:,} bytes", command=reading(large), goals=[flat], unavailable=needs_s3),
            Arm("its second half", command=reading(large, resume=True), goals=[flat], unavailable=needs_s3),
        ],
        reference=f"{small:,} bytes",
        metric=figures.PEAK_RSS,
        comparison="difference",
        pairs=3,
        libraries=("aiobotocore", "httptools", "orjson"),
    )


def needs_s3() -> str | None:
    """Why objects cannot be read here, or None."""
    return None if find_spec("aiobotocore") else "the extra `s3` is not installed"


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
