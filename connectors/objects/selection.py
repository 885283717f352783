"""Select which of the matching objects to read, by name, date and size."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.objects.listed import ListedObject

__all__ = ["Selection", "in_utc", "is_note"]

_NOTE = re.compile(
    r"(?:^|/)(?:(?:\.odw-|_odw/)[0-9a-f]{12}/[^/]+\.(?:json|tmp)|\.[^/]+\.[0-9a-f]{16}\.written)$"
)


def is_note(path: str) -> bool:
    """Return whether a sink made this file for itself, as notes or incomplete, until its run completes."""
    return path.endswith((".json", ".tmp", ".written")) and _NOTE.search(path) is not None


@dataclass(frozen=True)
class Selection:
    """Filters objects. An unknown date or size excludes nothing.

    Args:
        excluded: test for excluded keys.
        modified_after, modified_before: range of the object's date, including the start only.
        min_bytes, max_bytes: range of its size, inclusive.
    """

    excluded: Callable[[str], bool] | None = None
    modified_after: datetime | None = None
    modified_before: datetime | None = None
    min_bytes: int | None = None
    max_bytes: int | None = None

    def select(self, page: Sequence[ListedObject]) -> Sequence[ListedObject]:
        """Return the selected objects, in order, without the notes of sinks."""
        selected = page if self == Selection() else [found for found in page if self._wants(found)]
        return [found for found in selected if not is_note(found.key)]

    def _wants(self, found: ListedObject) -> bool:
        if self.excluded is not None and self.excluded(found.key):
            return False
        if found.size >= 0:
            if self.min_bytes is not None and found.size < self.min_bytes:
                return False
            if self.max_bytes is not None and found.size > self.max_bytes:
                return False
        if (self.modified_after is None and self.modified_before is None) or not found.last_modified:
            return True
        modified = datetime.fromisoformat(found.last_modified)
        if self.modified_after is not None and modified < in_utc(self.modified_after):
            return False
        return self.modified_before is None or modified < in_utc(self.modified_before)


def in_utc(when: datetime) -> datetime:
    """Return the time with a zone; one without is in UTC."""
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
