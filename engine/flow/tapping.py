"""Watch what leaves a node of a run in progress; a node that is not watched does nothing for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

from engine.contract.batch import Batch
from engine.contract.types import Record
from engine.errors import BatchError

__all__ = ["NodeTaps", "Seen", "Watchable", "watched_output", "watched_write"]

Seen: TypeAlias = Callable[[Sequence[Record]], None]
"""Takes the records of a batch that leave a node. It must neither change nor keep them, nor take long."""


class Watchable(Protocol):
    """A place where batches leave a node; a node has one for each of its workers."""

    def watch(self, seen: Seen | None) -> None:
        """Tell `seen` of each batch from now on, or nothing any more."""
        ...


class NodeTaps:
    """The taps of one node, at all its places."""

    def __init__(self) -> None:
        self._places: list[Watchable] = []
        self._taps: list[Seen] = []

    def add_place(self, place: Watchable) -> None:
        """Watch one more place whenever there is a tap."""
        self._places.append(place)
        if self._taps:
            place.watch(self._tell)

    def attach(self, tap: Seen) -> None:
        """Tell a tap of each batch from now on."""
        self._taps.append(tap)
        if len(self._taps) == 1:
            self._watch(self._tell)

    def detach(self, tap: Seen) -> None:
        """Tell a tap of no further batch."""
        self._taps.remove(tap)
        if not self._taps:
            self._watch(None)

    def _watch(self, seen: Seen | None) -> None:
        for place in self._places:
            place.watch(seen)

    def _tell(self, records: Sequence[Record]) -> None:
        for tap in self._taps:
            tap(records)


def watched_output(apply: Callable[[Batch], Any], seen: Seen) -> Callable[[Batch], Any]:
    """Return a transform's `apply` that also reports the records that it returns."""

    def run(batch: Batch) -> Any:
        made = apply(batch)
        if isinstance(made, Batch):
            seen(made.records)
            return made
        return finished(made) if isinstance(made, Awaitable) else made

    async def finished(made: Awaitable[Any]) -> Any:
        derived = await made
        if isinstance(derived, Batch):
            seen(derived.records)
        return derived

    return run


def watched_write(write: Callable[[Batch], Awaitable[Any]], seen: Seen) -> Callable[[Batch], Awaitable[Any]]:
    """Return a sink's `write` that also reports the records that the sink has taken."""

    async def run(batch: Batch) -> Any:
        try:
            receipt = await write(batch)
        except BatchError as error:
            seen([record for index, record in enumerate(batch.records) if index not in error.failures])
            raise
        seen(batch.records)
        return receipt

    return run
