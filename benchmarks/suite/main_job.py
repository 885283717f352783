"""The main job: simulated blobs into committed warehouse rows, over HTTP, on two processes."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import figures
from benchmarks.blob_runs import blob_run
from benchmarks.engine_commands import needs
from benchmarks.model import Arm, Benchmark, Goal, Scale


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``main_job``: with the columns that our sink and our service agree on, and with JSON alone."""
    records = scale.pick(200_000, 2_000)
    return [
        Benchmark(
            name="main_job",
            description=f"`blobs` with {records:,} records into committed rows; service beside it",
            arms=[
                Arm(
                    "engine",
                    command=blob_run(records),
                    goals=[Goal(figures.RATE, ">=", 80_000)],
                    unavailable=needs("run", "serve"),
                ),
                Arm(
                    "engine, JSON",
                    command=blob_run(records, columns=False),
                    goals=[Goal(figures.RATE, ">=", 40_000)],
                    unavailable=needs("run", "serve"),
                ),
            ],
            reference="engine",
            metric=figures.RATE,
            pairs=5,
            libraries=("faker", "httpx", "httpx-aiohttp", "aiohttp", "duckdb", "starlette", "uvicorn"),
        )
    ]
