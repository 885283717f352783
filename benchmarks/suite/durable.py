"""Durable runs compared with local ones, and on one and two workers."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.durable_runs import WAITING, durable_run, local_run, needs_temporal
from benchmarks.engine_commands import PIPELINES
from benchmarks.model import Arm, Benchmark, Goal, Scale

LIBRARIES = ("temporalio", "httpx", "httpx-aiohttp", "aiohttp", "duckdb")


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``durable_throughput``, ``durable_workers`` and ``durable_overhead``."""
    return [_throughput(scale), _workers(scale), _overhead(scale)]


def _throughput(scale: Scale) -> Benchmark:
    records = scale.pick(600_000, 4_000)
    params = {"batch_size": records}
    return Benchmark(
        name="durable_throughput",
        description=f"`blobs` with {records:,} records into committed rows: locally and on one worker",
        arms=[
            Arm(
                "local",
                command=local_run(PIPELINES, "blobs", params, records, service=True),
                unavailable=needs_temporal,
            ),
            Arm(
                "one worker",
                command=durable_run(PIPELINES, "blobs", params, records, service=True),
                goals=[Goal("ratio", "<=", 1 / 0.9)],
                unavailable=needs_temporal,
            ),
        ],
        reference="local",
        metric="run",
        pairs=7,
        libraries=LIBRARIES,
    )


def _workers(scale: Scale) -> Benchmark:
    splits, each = scale.pick(128, 8), 100
    params = {"splits": splits, "records": each, "seconds": 0.5}
    return Benchmark(
        name="durable_workers",
        description=f"{splits} chunks that wait for half a second each, on one worker and on two",
        arms=[
            Arm(
                "one worker",
                command=durable_run(WAITING, "waiting", params, splits * each),
                unavailable=needs_temporal,
            ),
            Arm(
                "two workers",
                command=durable_run(WAITING, "waiting", params, splits * each, workers=2),
                goals=[Goal("ratio", "<=", 1 / 1.7)],
                unavailable=needs_temporal,
            ),
        ],
        reference="one worker",
        metric="run",
        pairs=5,
        libraries=LIBRARIES,
    )


def _overhead(scale: Scale) -> Benchmark:
    """The input of the capacity model: a run of one chunk, and one of many, without waiting."""
    many = scale.pick(256, 8)
    return Benchmark(
        name="durable_overhead",
        description=f"runs of 1 and of {many} chunks that do nothing: what a run and a chunk cost",
        arms=[
            Arm(
                f"{splits} idle chunks",
                command=durable_run(
                    WAITING, "waiting", {"splits": splits, "records": 1, "seconds": 0}, splits
                ),
                unavailable=needs_temporal,
            )
            for splits in (1, many)
        ],
        reference="1 idle chunks",
        metric="run",
        comparison="difference",
        pairs=5,
        libraries=LIBRARIES,
    )
