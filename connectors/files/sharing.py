"""Which nodes may use a file at the same time."""

from __future__ import annotations

import os

from engine.contract.claims import Claim

__all__ = ["place_of", "reads_file", "without_nul", "writes_file"]

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


def without_nul(path: str) -> str:
    """Return the path. Raises ValueError if it contains a NUL character."""
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    return path
