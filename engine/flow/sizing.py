"""Estimate the memory of records from a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sys import getsizeof

from pydantic import BaseModel

from engine.contract.types import Record

SUMMED = 8  # up to this many records are summed instead of sampled, so that no large document is missed
SAMPLES = 4
CHILDREN = 64  # items sampled inside a container


_FLAT = frozenset({str, bytes, int, float, bool, type(None)})


def estimate_record(record: Record) -> int:
    """Estimate the bytes of a record, two containers deep."""
    if type(record) is not dict:
        if not isinstance(record, BaseModel):
            return _estimate(record, 2)
        record = record.__dict__
    size = getsizeof(record)
    for item in record.values():
        # exact types first: a check against an abstract class costs more than all the rest
        size += getsizeof(item) if type(item) in _FLAT else _estimate(item, 1)
    return size


def _estimate(value: object, depth: int) -> int:
    size = getsizeof(value)
    if depth == 0 or isinstance(value, str | bytes):
        return size
    if isinstance(value, Mapping):
        for item in value.values():
            size += getsizeof(item) if type(item) in _FLAT else _estimate(item, depth - 1)
    elif isinstance(value, list | tuple):
        sample = value[:CHILDREN]
        inside = sum(_estimate(item, depth - 1) for item in sample)
        size += inside * len(value) // len(sample) if sample else 0
    return size


def estimate_batch(records: Sequence[Record]) -> int:
    """Estimate the bytes of a batch: summed if small, else scaled from a few evenly spaced records."""
    count = len(records)
    if count <= SUMMED:
        return sum(map(estimate_record, records))
    step = count // SAMPLES
    return sum(estimate_record(records[index]) for index in range(0, step * SAMPLES, step)) * count // SAMPLES


class RunningEstimate:
    """Estimates sizes of consecutive batches from one node.

    Measures one record of each batch, at another index each time; while it resembles earlier ones, the batch
    is assumed to do so too. Small differences do not change the estimate, so batches of the same length have
    the same estimate and reservations need no correction.
    """

    def __init__(self) -> None:
        self._mean = 0.0
        self._turn = 0

    def measure(self, records: Sequence[Record]) -> int:
        """Estimate the bytes of this batch."""
        count = len(records)
        if count > SUMMED:
            self._turn += 1
            size = estimate_record(records[self._turn * 31 % count])
            mean = self._mean
            if mean * 0.5 <= size <= mean * 2:
                if not mean * 0.9 <= size <= mean * 1.1:
                    self._mean = mean = mean + (size - mean) * 0.25
                return int(mean * count)
        nbytes = estimate_batch(records)
        self._mean = nbytes / count if count else 0.0
        return nbytes
