"""Watch the records that leave a node of a run in progress; an unwatched node has no overhead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias

from engine.contract.batch import Batch
from engine.contract.types import Record
from engine.errors import BatchError

Seen: TypeAlias = Callable[[Sequence[Record]], None]
"""Receives the records that leave a node. It must be quick, and neither change nor keep them."""


class Watchable(Protocol):
    """A place where batches leave a node; a node has one for each of its workers."""

    def watch(self, seen: Seen | None) -> None:
        """Pass each batch to `seen` from now on; None stops it."""


class NodeTaps:
    """The taps of one node, at all its places."""

    def __init__(self) -> None:
        self._places: list[Watchable] = []
        self._taps: list[Seen] = []

    def add_place(self, place: Watchable) -> None:
        """Add a place, which is watched whenever there is a tap."""
        self._places.append(place)
        if self._taps:
            place.watch(self._tell)

    def attach(self, tap: Seen) -> None:
        """Pass each batch to a tap from now on."""
        self._taps.append(tap)
        if len(self._taps) == 1:
            self._watch(self._tell)

    def detach(self, tap: Seen) -> None:
        """Stop passing batches to a tap."""
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
    """Return a transform's `apply` that also reports its returned records."""

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
    """Return a sink's `write` that also reports the delivered records."""

    async def run(batch: Batch) -> Any:
        try:
            receipt = await write(batch)
        except BatchError as error:
            seen([record for index, record in enumerate(batch.records) if index not in error.failures])
            raise
        seen(batch.records)
        return receipt

    return run
