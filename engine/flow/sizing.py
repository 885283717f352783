"""How large records are in memory, estimated from a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sys import getsizeof

from pydantic import BaseModel

from engine.batch import Record

__all__ = ["estimate_batch", "estimate_record"]

SUMMED = 8  # up to this many records are summed instead of sampled: one large document must not hide
SAMPLES = 4
CHILDREN = 64  # items looked at inside a container


def estimate_record(record: Record) -> int:
    """Bytes that one record holds, two containers deep."""
    if isinstance(record, BaseModel):
        record = record.__dict__
    return _estimate(record, 2)


def _estimate(value: object, depth: int) -> int:
    size = getsizeof(value)
    if depth == 0 or isinstance(value, str | bytes):
        return size
    if isinstance(value, Mapping):
        for item in value.values():
            size += getsizeof(item) if isinstance(item, str) else _estimate(item, depth - 1)
    elif isinstance(value, list | tuple):
        sample = value[:CHILDREN]
        inside = sum(_estimate(item, depth - 1) for item in sample)
        size += inside * len(value) // len(sample) if sample else 0
    return size


def estimate_batch(records: Sequence[Record]) -> int:
    """Bytes that a batch holds: summed when it is small, else scaled from a few evenly spaced records."""
    count = len(records)
    if count <= SUMMED:
        return sum(map(estimate_record, records))
    step = count // SAMPLES
    return sum(estimate_record(records[index]) for index in range(0, step * SAMPLES, step)) * count // SAMPLES
