"""Batches with open acks, for tests without a run."""

from __future__ import annotations

from engine.contract.acks import Ack, SplitTracker
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.contract.types import Reservation


class Released(Reservation):
    """A reservation that counts how often it is released, and what it holds."""

    __slots__ = ("held", "times")

    def __init__(self, held: int = 0) -> None:
        self.held = held
        self.times = 0

    def resize(self, nbytes: int) -> None:
        self.held = nbytes

    def grow(self, nbytes: int) -> None:
        self.held += nbytes

    def release(self) -> None:
        self.times += 1


def opened(count: int, tracker: SplitTracker | None = None, *, nbytes: int = 0) -> tuple[Batch, Ack]:
    """A source batch of `count` records, 0 to count-1, and its ack."""
    ack = (tracker or SplitTracker("all")).begin(count, count)
    batch = Batch(list(range(count)), KeyRange("k/", 0, count), nbytes=nbytes)
    batch.origins = [(ack, count)] if count else []
    return batch, ack
