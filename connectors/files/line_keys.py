"""Lazy keys of lines."""

from __future__ import annotations

from engine.contract.keys import Keys

__all__ = ["LineKeys"]


class LineKeys(Keys):
    """Keys `name:line` of consecutive lines, created on demand. `first` counts from 0.

    `before` is the number of the source's records before the file.
    """

    __slots__ = ("before", "count", "first", "name")

    def __init__(self, name: str, first: int, count: int, before: int = 0) -> None:
        self.name = name
        self.first = first
        self.count = count
        self.before = before

    def __len__(self) -> int:
        return self.count

    def to_list(self) -> list[str]:
        name, begin = self.name, self.first + 1
        return [f"{name}:{line}" for line in range(begin, begin + self.count)]

    def ordinals(self) -> range:
        start = self.before + self.first
        return range(start, start + self.count)

    def place(self, index: int) -> str:
        return f"line {self.first + index + 1} of {self.name}"

    def ranges(self) -> list[tuple[str, int, int]] | None:
        return [(f"{self.name}:", self.first + 1, self.first + 1 + self.count)]

    def slice(self, start: int, stop: int) -> Keys:
        return LineKeys(self.name, self.first + start, stop - start, self.before)
