"""Processor time of reading 1,000 objects from a real MinIO, beside the same by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import figures
from benchmarks.lake import (
    Lake,
    bare_lean,
    by_hand,
    needs_minio,
    needs_obstore,
    needs_s5cmd,
    pipeline,
    reader,
    with_obstore,
    with_s5cmd,
)
from benchmarks.model import Arm, Benchmark, Goal, Scale

BY_HAND = "aiobotocore by hand"
KIBIBYTE = 1024
ADMITTED = 8
"""Requests that the server of `s3_refused` handles at once."""


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``s3_16k``, ``s3_1m``, ``s3_8m`` and ``s3_refused``; the figure `cpu` is of 1,000 objects."""
    small = [Goal("ratio", "<=", 0.25), Goal(figures.CPU, "<=", 0.20)]
    return [
        _reading("s3_16k", Lake(scale.pick(3_000, 50), 16 * KIBIBYTE), small),
        _reading("s3_1m", Lake(scale.pick(300, 10), 1024 * KIBIBYTE), []),
        _reading("s3_8m", Lake(scale.pick(100, 5), 8192 * KIBIBYTE), [Goal(figures.CPU, "<=", 5.5)]),
        _refused(Lake(scale.pick(5_000, 50), 16 * KIBIBYTE, admitted=ADMITTED)),
    ]


def _refused(lake: Lake) -> Benchmark:
    reference = "as many as it admits"
    return Benchmark(
        name="s3_refused",
        description=f"{lake.objects:,} objects of {lake.size // KIBIBYTE:,} KiB from a MinIO that handles "
        f"{ADMITTED} requests at once and refuses more; time by the clock",
        arms=[
            Arm(reference, partial(pipeline, lake, ADMITTED), unavailable=needs_minio),
            Arm(
                "source s3, its defaults",
                partial(pipeline, lake),
                # at least 85 % of what it admits
                goals=[Goal("ratio", "<=", 1 / 0.85)],
                unavailable=needs_minio,
            ),
        ],
        reference=reference,
        unit="objects",
        pairs=5,
        libraries=("aiohttp",),
    )


def _reading(name: str, lake: Lake, goals: Sequence[Goal]) -> Benchmark:
    return Benchmark(
        name=name,
        description=f"processor seconds of the client for 1,000 objects of {lake.size // KIBIBYTE:,} KiB, "
        "MinIO on loopback, 32 in flight",
        arms=[
            Arm(BY_HAND, partial(by_hand, lake), unavailable=needs_minio),
            Arm("obstore", partial(with_obstore, lake), unavailable=needs_obstore),
            Arm("s5cmd, to files", partial(with_s5cmd, lake), unavailable=needs_s5cmd),
            Arm("signed GET alone", partial(bare_lean, lake), unavailable=needs_minio),
            Arm("our reader, sdk", partial(reader, lake, "sdk"), unavailable=needs_minio),
            Arm("our reader, lean", partial(reader, lake, "lean"), goals=goals, unavailable=needs_minio),
            Arm("source s3, records", partial(pipeline, lake), unavailable=needs_minio),
        ],
        reference=BY_HAND,
        unit="objects",
        metric=figures.CPU,
        pairs=5,
        libraries=("aiobotocore", "aiohttp", "obstore"),
    )
