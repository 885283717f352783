"""List what a source would read, within bounds."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import anyio

from engine.contract.component import Source
from engine.contract.planning import MeasuresSplits, SplitSize
from engine.contract.split import Split
from engine.contract.types import JsonValue

MAX_SPLITS = 100_000
WHOLE = (None, "document", "text", "binary")  # formats in which an object is one record


@dataclass(slots=True)
class Listing:
    """The input of a source.

    Attributes:
        records, nbytes: None when a split's size is unknown.
        complete: False when a limit of time or number ended the listing.
        first: key of the first split.
    """

    splits: int = 0
    records: int | None = 0
    nbytes: int | None = 0
    complete: bool = True
    first: str = ""

    def add(self, split: Split, size: SplitSize) -> None:
        """Count a split."""
        self.first = self.first or split.key
        self.splits += 1
        self.records = None if size.records is None or self.records is None else self.records + size.records
        self.nbytes = None if size.nbytes is None or self.nbytes is None else self.nbytes + size.nbytes

    def to_json(self) -> dict[str, JsonValue]:
        """Return the listing as JSON-safe values."""
        return {
            "splits": self.splits, "records": self.records, "bytes": self.nbytes, "complete": self.complete
        }  # fmt: skip


async def list_source(source: Source[Any], seconds: float) -> Listing:
    """List an open source for at most `seconds`.

    Raises:
        ComponentError: it cannot be listed.
    """
    listing = Listing()
    with anyio.move_on_after(seconds) as scope:
        async with aclosing(source.splits(source.ctx)) as splits:  # type: ignore[type-var]
            async for split in splits:
                listing.add(split, _size(source, split))
                if listing.splits == MAX_SPLITS:
                    listing.complete = False
                    break
    if scope.cancelled_caught:
        listing.complete = False
    return listing


def _size(source: Source[Any], split: Split) -> SplitSize:
    if isinstance(source, MeasuresSplits):
        return source.split_size(split)
    manifest = split.manifest
    start, stop, size, objects = (manifest.get(name) for name in ("start", "stop", "size", "objects"))
    if isinstance(start, int) and isinstance(stop, int):
        return SplitSize(records=stop - start)
    if isinstance(objects, list):
        sizes = [entry[2] for entry in objects if isinstance(entry, list) and len(entry) > 2]
        known = [one for one in sizes if isinstance(one, int) and one >= 0]
        whole = getattr(source.params, "format", None) in WHOLE  # else an object holds many records
        return SplitSize(len(objects) if whole else None, sum(known) if len(known) == len(objects) else None)
    return SplitSize(nbytes=size if isinstance(size, int) and size >= 0 else None)
