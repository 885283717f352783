"""Wording of problems: suggestions, and safe descriptions of values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from engine.config.values import Place, Value
from engine.errors import Problem

_SHOWN_LENGTH = 60
_MAX_BITS = 14_000  # Python formats at most 4,300 digits


class Problems:
    """Collects problems to report together."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, place: Place, message: str, hint: str = "") -> None:
        """Add a problem at a place."""
        self._found.append(place.problem(message, hint))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add problems found elsewhere."""
        self._found.extend(problems)

    def __bool__(self) -> bool:
        return bool(self._found)

    def all(self) -> tuple[Problem, ...]:
        """Return the problems, each once."""
        return tuple(dict.fromkeys(self._found))


_ELSEWHERE: Final[Mapping[str, Sequence[str]]] = {
    "encoding": ["charset"],
    "sep": ["delimiter"],
    "separator": ["delimiter"],
    "glob": ["pattern"],
    "file": ["path", "pattern"],
    "filename": ["path"],
    "folder": ["path", "pattern"],
    "directory": ["path", "pattern"],
    "dsn": ["url"],
    "uri": ["url"],
    "connection_string": ["url"],
    "base_url": ["url"],
    "endpoint": ["path", "url"],
    "primary_key": ["key"],
    "unique_key": ["key"],
    "write_disposition": ["mode"],
    "write_mode": ["mode"],
    "schema": ["columns"],
    "dtypes": ["types"],
    "pagination": ["paging"],
    "rate_limit": ["requests_per_second"],
    "cursor_field": ["incremental"],
}
"""What other tools call a key."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name, or None."""
    candidates = list(known)
    lowered = {candidate.lower(): candidate for candidate in reversed(candidates)}
    for meant in _ELSEWHERE.get(name.lower(), ()):
        if meant in lowered:
            return lowered[meant]
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown key `batchsize`, did you mean `batch_size`?`, or the known names when none is near."""
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"unknown {what} `{name}`, did you mean `{near}`?"
    return f"unknown {what} `{name}`, known: {listed(names)}" if names else f"unknown {what} `{name}`"


def listed(names: Iterable[str]) -> str:
    """List names in backquotes, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def describe(value: Value) -> str:
    """Describe a value briefly, without data from the environment or a file."""
    if value.shown is not None:
        return f"the value of `{value.shown}`"
    data = value.data
    if data is None:
        return "nothing (null)"
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, dict):
        return "a mapping"
    if isinstance(data, list):
        return "a list"
    if isinstance(data, int) and data.bit_length() > _MAX_BITS:
        return "an integer of too many digits"
    text = repr(data) if isinstance(data, str) else str(data)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def redacted(message: str, secrets: Iterable[str]) -> str:
    """Remove texts from the environment or files from a foreign message."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if secret:
            message = message.replace(secret, "***").replace(repr(secret)[1:-1], "***")
    return message
