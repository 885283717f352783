"""What the formats of records make of an object: pages of records with their places."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from connectors.objects.content import OpenBody
from engine.contract.keys import Keys
from engine.errors import RecordError

__all__ = ["SHOWN_BYTES", "ObjectReader", "PlaceKeys", "RecordFormat", "RecordPage", "RecordPlace", "stub"]

SHOWN_BYTES = 64 * 1024
"""How much of what cannot be read its dead letter shows."""


class RecordPlace(NamedTuple):
    """A place inside an object.

    Args:
        at: bytes of the content before it; of Parquet: row groups.
        before: lines before it; of Parquet: rows.
        encoding: of the text, once it was found out by bytes that came earlier; "": not yet.
    """

    at: int = 0
    before: int = 0
    encoding: str = ""


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """One object to be read.

    Args:
        name: its key, whose suffix may tell how it is packed.
        path: its address, for messages and for the records of lines.
        size: bytes as stored, -1 when it is not known.
    """

    name: str
    path: str
    size: int
    open: OpenBody


@dataclass(slots=True)
class RecordPage:
    """Consecutive records, and the place after them.

    `numbers` are the lines (rows) that they begin at, counted from 1, in ascending order. `failures` are
    those of them that could not be read, as (index, error). `replaced` characters stand for
    invalid bytes; `guessed`: the encoding is a guess. `nbytes` is a rough size in memory.
    """

    records: list[Any]
    numbers: Sequence[int]
    end: RecordPlace
    failures: list[tuple[int, RecordError]] = field(default_factory=list)
    replaced: int = 0
    guessed: bool = False
    nbytes: int = 0


class RecordFormat(Protocol):
    """Reads the records of one object after the other."""

    def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """The records from a place on.

        Raises:
            RecordError: the object, or the rest of it, cannot be read.
            ComponentError: as the store's `open`.
        """
        ...


class PlaceKeys(Keys):
    """Keys `prefix` + number of consecutive or some lines, made on demand.

    `before` is how many records of the source come before the object, as far as that is known.
    """

    __slots__ = ("before", "numbers", "prefix")

    def __init__(self, prefix: str, numbers: Sequence[int], before: int) -> None:
        self.prefix = prefix
        self.numbers = numbers
        self.before = before

    def __len__(self) -> int:
        return len(self.numbers)

    def to_list(self) -> list[str]:
        prefix = self.prefix
        return [f"{prefix}{number}" for number in self.numbers]

    def ordinals(self) -> Sequence[int]:
        before = self.before - 1
        return [before + number for number in self.numbers]

    def place(self, index: int) -> str:
        return f"line or row {self.numbers[index]} of {self.prefix[:-1]}"

    def ranges(self) -> list[tuple[str, int, int]] | None:
        numbers = self.numbers
        if not isinstance(numbers, range) or not numbers:
            return None
        return [(self.prefix, numbers[0], numbers[-1] + 1)]

    def slice(self, start: int, stop: int) -> Keys:
        return PlaceKeys(self.prefix, self.numbers[start:stop], self.before)


def stub(path: str, number: int, content: str | bytes | None, error: RecordError) -> dict[str, Any]:
    """Return the record of the dead letter of a line."""
    if isinstance(content, bytes):
        content = content[:SHOWN_BYTES].decode("utf-8", "replace")
    return {
        "file_path": path, "line": number, "content": (content or "")[:SHOWN_BYTES], "error": str(error),
    }  # fmt: skip
