"""Peak memory of the engine's process, and whether it grows with the number of records."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import figures
from benchmarks.blob_runs import blob_run
from benchmarks.engine_commands import needs
from benchmarks.model import Arm, Benchmark, Goal, Scale

MEGABYTE = 1_000_000


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``memory``: two sizes of one run. Their checksums agree, since each confirms all of its records."""
    small, large = scale.pick(100_000, 1_000), scale.pick(2_000_000, 5_000)
    verbs = needs("run", "serve")
    bound = Goal(figures.PEAK_RSS, "<=", 80 * MEGABYTE)
    flat = Goal("difference", "<=", 8 * MEGABYTE)
    return [
        Benchmark(
            name="memory",
            description=f"peak resident size of `blobs` at {small:,} and {large:,} records",
            arms=[
                Arm(f"{small:,} records", command=blob_run(small), goals=[bound], unavailable=verbs),
                Arm(f"{large:,} records", command=blob_run(large), goals=[bound, flat], unavailable=verbs),
            ],
            reference=f"{small:,} records",
            metric=figures.PEAK_RSS,
            comparison="difference",
            pairs=3,
            libraries=("faker", "httpx", "httpx-aiohttp", "aiohttp"),
        )
    ]
