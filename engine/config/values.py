"""Values with their place in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from engine.errors import Problem
from engine.redaction import hide

Plain: TypeAlias = Any
"""What YAML gives: None, bool, int, float, str, date, datetime, lists and text-keyed dicts of them.

A pipeline built in Python may also hold other objects as leaves (a class, a function)."""

_LONG_WORD = re.compile(r"[^\s.`]{200,}")


def _brief(text: str) -> str:
    """Shorten words of 200 characters and more: names in a file have no length limit."""
    return _LONG_WORD.sub(lambda word: f"{word[0][:60]}…", text)


@dataclass(frozen=True, slots=True)
class Place:
    """A position: `line` and `column` from 1, or 0 if unknown; `path` is the path in the document.

    `hidden`: texts from the environment or a file that were inserted here. No problem shows them, not even
    for a name: it may be a secret by mistake.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    hidden: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def at(self, key: str | int) -> Place:
        """Return the same position, one step further down in the document."""
        return replace(self, path=f"{self.path}.{key}" if self.path else str(key))

    def problem(self, message: str, hint: str = "") -> Problem:
        """Create a problem at this place."""
        message, hint = _brief(hide(message, self.hidden)), _brief(hide(hint, self.hidden))
        path = _brief(self.path)
        return Problem(message, path=path, file=self.file, line=self.line, column=self.column, hint=hint)


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar, a list of values or a mapping of values, with its place.

    Attributes:
        data: the scalar, a list of `Value`, or a dict of text to `Value`.
        place: where the value begins.
        keys: for a mapping, the place of each key.
        shown: the text as written, to show instead of `data` when something from the environment or a file
            was inserted. None when `data` itself may be shown.
        hidden: the texts inserted from the environment or files.
        failed: a problem with this value was reported; report no further ones.
    """

    data: Plain
    place: Place = field(default_factory=Place)
    keys: Mapping[str, Place] = field(default_factory=dict)
    shown: str | None = None
    hidden: tuple[str, ...] = ()
    failed: bool = False

    @property
    def is_mapping(self) -> bool:
        """True when `data` is a dict of values."""
        return isinstance(self.data, dict)

    @property
    def is_list(self) -> bool:
        """True when `data` is a list of values."""
        return isinstance(self.data, list)

    def get(self, key: str) -> Value | None:
        """Return the value of a key of a mapping, or None."""
        found = self.data.get(key) if isinstance(self.data, dict) else None
        return found if isinstance(found, Value) else None

    def items(self) -> list[tuple[str, Value]]:
        """Return keys and values of a mapping; empty for anything else."""
        return list(self.data.items()) if isinstance(self.data, dict) else []

    def key_place(self, key: str) -> Place:
        """Return the place of a key, or of the mapping if unknown."""
        return self.keys.get(key, self.place.at(key))

    def step(self, key: str | int) -> Value | None:
        """Return the value one step down, by key or index."""
        if isinstance(key, str):
            return self.get(key)
        if isinstance(self.data, list) and -len(self.data) <= key < len(self.data):
            found = self.data[key]
            return found if isinstance(found, Value) else None
        return None

    def plain(self) -> Plain:
        """Return the value without positions. It may contain secrets: never show it."""
        if isinstance(self.data, dict):
            return {key: value.plain() for key, value in self.data.items()}
        if isinstance(self.data, list):
            return [value.plain() for value in self.data]
        return self.data

    def without(self, *names: str) -> Value:
        """Return a mapping without some of its keys."""
        kept = {key: value for key, value in self.items() if key not in names}
        return replace(self, data=kept)

    def secrets(self) -> tuple[str, ...]:
        """Return every text in this value from the environment or a file."""
        inside: Sequence[Value] = ()
        if isinstance(self.data, dict):
            inside = tuple(self.data.values())
        elif isinstance(self.data, list):
            inside = self.data
        return (*self.hidden, *(text for value in inside for text in value.secrets()))

    def any_failed(self) -> bool:
        """Return whether a problem at or under this value was already reported."""
        if self.failed:
            return True
        if isinstance(self.data, dict):
            return any(value.any_failed() for value in self.data.values())
        return isinstance(self.data, list) and any(value.any_failed() for value in self.data)

    def __repr__(self) -> str:
        return f"Value({self.shown!r})" if self.shown is not None else f"Value({self.data!r})"


def from_plain(data: Plain, place: Place | None = None) -> Value:
    """Create values from a Python structure, with document paths but without lines."""
    place = place or Place()
    if isinstance(data, Mapping):
        names = [str(key) for key in data]
        inside = {
            name: from_plain(item, place.at(name)) for name, item in zip(names, data.values(), strict=True)
        }
        return Value(inside, place, {name: place.at(name) for name in names})
    if isinstance(data, list | tuple):
        return Value([from_plain(item, place.at(index)) for index, item in enumerate(data)], place)
    return Value(data, place)
