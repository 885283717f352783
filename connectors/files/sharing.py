"""Which nodes may use a file at the same time."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from connectors.files.walking import path_matcher
from engine.contract.claims import Claim
from engine.errors import FatalError

_CLASHES = {
    "replace": "`mode: replace` deletes what the other reads or writes",
    "error": "`mode: error` rejects a file that the other has written to",
}


def reads_files(patterns: Sequence[str], excluded: Callable[[str], bool] | None = None) -> Claim:
    """The claim of a source that reads a file, or those that match patterns."""
    places = [place_of(one) for one in patterns]

    def reads(place: str) -> bool:
        if place in places:
            return True
        try:
            matches = path_matcher(places)
        except FatalError:
            return False  # reading reports it
        return matches(place) and not (excluded and (excluded(place) or excluded(os.path.relpath(place))))

    return Claim("\n".join(places), f"reads {', '.join(patterns)}", reads=reads)


def writes_file(path: str, mode: str) -> Claim:
    """The claim of a sink that writes to one file."""
    remedy = "choose another file for one of them"
    place = place_of(path)
    return Claim(place, f"writes {path}", _CLASHES.get(mode, ""), remedy, adds=place)


def place_of(path: str) -> str:
    """Return a value that is equal for all paths of a file."""
    return os.path.realpath(os.path.expanduser(path))
