"""Pages of records with their positions, as the record formats produce them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from connectors.objects.content import OpenBody
from engine.contract.keys import Keys
from engine.errors import RecordError

SHOWN_BYTES = 64 * 1024
"""Maximum length of unreadable input in a dead letter."""


class RecordPlace(NamedTuple):
    """A position inside an object.

    Args:
        at: bytes of the content before it; for Parquet, row groups.
        before: lines before it; for Parquet, rows.
        encoding: encoding of the text, if detected from earlier bytes, else "".
        depth: arrays of a JSON file that enclose it.
    """

    at: int = 0
    before: int = 0
    encoding: str = ""
    depth: int = 0


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """An object to read.

    Args:
        name: key, whose suffix may indicate compression.
        path: address, for messages and for records of lines.
        size: stored bytes, -1 if unknown.
    """

    name: str
    path: str
    size: int
    open: OpenBody

    async def stored_size(self) -> int:
        """Return the stored bytes, asking for them if unknown.

        Raises:
            RecordError: the store does not know either.
            ComponentError: as for the store's `open`.
        """
        if self.size >= 0:
            return self.size
        async with self.open(0, 1) as body:
            while await body.read():
                pass
            if body.size < 0:
                raise RecordError(f"{self.path}: its size is not known", kind="ObjectUnreadable")
            return body.size


@dataclass(slots=True)
class RecordPage:
    """Consecutive records, and the position after them.

    `numbers` are their first lines (or rows), from 1, in ascending order. `failures` are the unreadable ones,
    as (index, error). `replaced` is the number of characters that replace invalid bytes; `guessed`: the
    encoding is a guess. `nbytes` is the approximate size in memory.
    """

    records: list[Any]
    numbers: Sequence[int]
    end: RecordPlace
    failures: list[tuple[int, RecordError]] = field(default_factory=list)
    replaced: int = 0
    guessed: bool = False
    nbytes: int = 0


class RecordFormat(Protocol):
    """Reads the records of objects."""

    def pages(self, reader: ObjectReader, start: RecordPlace) -> AsyncGenerator[RecordPage, None]:
        """Yield the records from a position on.

        Raises:
            RecordError: the object, or the rest of it, cannot be read.
            ComponentError: as for the store's `open`.
        """


class PlaceKeys(Keys):
    """Keys made of `prefix` and line numbers, created on demand.

    `before` is the number of the source's records before the object, as far as known.
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
    """Return the record for the dead letter of a line."""
    if isinstance(content, bytes):
        content = content[:SHOWN_BYTES].decode("utf-8", "replace")
    return {
        "file_path": path, "line": number, "content": (content or "")[:SHOWN_BYTES], "error": str(error),
    }  # fmt: skip


MAX_NAMED = 16
"""Number of names up to which a dict display is two to three times faster than `dict(zip(…))`."""


def record_maker(names: Sequence[str]) -> Callable[[Sequence[Sequence[Any]]], list[dict[str, Any]]]:
    """Return a function that turns columns, one per name, into a dict for each row."""
    if not 0 < len(names) <= MAX_NAMED:
        # all columns have equal length, and `strict` takes a third longer
        return lambda columns: [dict(zip(names, row)) for row in zip(*columns)]  # noqa: B905
    row = "".join(f"v{at}, " for at in range(len(names)))
    items = ", ".join(f"{name!r}: v{at}" for at, name in enumerate(names))
    made: Callable[[Sequence[Sequence[Any]]], list[dict[str, Any]]] = eval(  # noqa: S307 - `repr` of texts
        f"lambda columns: [{{{items}}} for {row}in zip(*columns)]"
    )
    return made
