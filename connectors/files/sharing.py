"""Which nodes may use a file at the same time."""

from __future__ import annotations

import os

from connectors.addresses import without_fields
from engine.contract.claims import Claim

__all__ = ["one_path", "place_of", "reads_file", "writes_file"]

_CLASHES = {
    "replace": "`mode: replace` deletes what the other reads or writes",
    "error": "`mode: error` rejects a file that the other has written to",
}


def reads_file(path: str) -> Claim:
    """The claim of a source that reads a file."""
    return Claim(place_of(path), f"reads {path}")


def writes_file(path: str, mode: str) -> Claim:
    """The claim of a sink that writes to one file."""
    remedy = "choose another file for one of them"
    return Claim(place_of(path), f"writes {path}", _CLASHES.get(mode, ""), remedy)


def place_of(path: str) -> str:
    """Return a value that is equal for all paths of a file."""
    return os.path.abspath(os.path.expanduser(path))


def one_path(path: str) -> str:
    """Return the path to write to. Raises ValueError if it names fields of records, or has a NUL."""
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    return without_fields(path)
