"""Resize batches for a node; pure, without clock or tasks."""

from __future__ import annotations

from engine.contract.batch import Batch, join
from engine.contract.component import BatchLimits


class Batcher:
    """Collects records, with origins and keys, until a batch is full by count or bytes.

    A record is never split and never reordered; a single record over the byte limit is a separate batch.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._held: list[Batch] = []
        self._records = 0
        self._nbytes = 0

    def __len__(self) -> int:
        return self._records

    def add(self, batch: Batch) -> list[Batch]:
        """Add a batch and return every full batch, in order."""
        full: list[Batch] = []
        rest: Batch | None = batch
        while rest is not None and len(rest):
            room = self._room(rest)
            if room <= 0:
                full.append(self._take())
                continue
            if room >= len(rest):
                self._hold(rest)
                rest = None
            else:
                self._hold(rest.slice(0, room))
                rest = rest.slice(room, len(rest))
            if self._full():
                full.append(self._take())
        return full

    def flush(self) -> Batch:
        """Return the collected records as a batch, possibly empty."""
        return self._take()

    def _room(self, batch: Batch) -> int:
        limits, room = self._limits, len(batch)
        if limits.records:
            room = min(room, limits.records - self._records)
        if limits.nbytes and batch.nbytes:
            each = max(1, batch.nbytes // len(batch))
            fitting = (limits.nbytes - self._nbytes) // each
            room = min(room, fitting if self._records else max(1, fitting))
        return room

    def _full(self) -> bool:
        limits = self._limits
        return bool(
            (limits.records and self._records >= limits.records)
            or (limits.nbytes and self._nbytes >= limits.nbytes)
        )

    def _hold(self, batch: Batch) -> None:
        self._held.append(batch)
        self._records += len(batch)
        self._nbytes += batch.nbytes

    def _take(self) -> Batch:
        taken = join(self._held)
        self._held, self._records, self._nbytes = [], 0, 0
        return taken
