"""Listed objects and files, which of them to read, their records, and the stores they come from."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from connectors.objects.content import ObjectBody
from engine.errors import FatalError, FatalKind, RecordError

FileRecord = dict[str, str | int | bool | None]
"""The fields of `connectors.models.S3FileContent`."""


class ObjectRefusedError(FatalError):
    """Access to an object was refused, perhaps to all objects.

    It is fatal if nothing else can be read either, otherwise the object's own failure: `as_record`.
    """

    def __init__(self, message: str, *, kind: FatalKind = "config", record_kind: str) -> None:
        super().__init__(message, kind=kind)
        self.record_kind = record_kind

    def as_record(self) -> RecordError:
        """Return the error as a failure of this object alone."""
        return RecordError(str(self), kind=self.record_kind)


class ListedObject(NamedTuple):
    """An object or file in a listing.

    `etag` is without quotes, "" if missing; `size` is in bytes, -1 if unknown; `last_modified` is ISO 8601 in
    UTC, "" if unknown.
    """

    key: str
    etag: str
    size: int
    last_modified: str = ""

    @property
    def version(self) -> str:
        """The version of the key's content: the ETag, or else size and date."""
        return self.etag or f"{self.size}-{self.last_modified}"

    def as_entry(self) -> list[str | int]:
        """Return the object's entry in the manifest of a split."""
        entry: list[str | int] = [self.key, self.etag, self.size]
        return entry if self.etag else [*entry, self.last_modified]

    @classmethod
    def from_entry(cls, entry: Sequence[Any]) -> ListedObject:
        """Create the object from an entry in the manifest of a split."""
        key, etag, size, *modified = entry
        return cls(str(key), str(etag), int(size), *map(str, modified))


class ObjectStore(Protocol):
    """An open bucket or folder, for the sources of this package.

    Attributes:
        scope: its name in bookmarks, which distinguishes equal keys in other stores.
        prefix: prefix of the keys of its records.
    """

    @property
    def scope(self) -> str: ...
    @property
    def prefix(self) -> str: ...

    def pages(self, *, after: str = "") -> AsyncGenerator[Sequence[ListedObject], None]:
        """List the objects that match the pattern, page by page.

        Args:
            after: last key of an earlier listing, to continue after.

        Raises:
            FatalError, TransientError: it cannot be listed.
        """

    async def read(self, found: ListedObject) -> FileRecord:
        """Read one object as a record.

        Raises:
            RecordError: this object cannot be read, or has changed since it was listed.
            ObjectRefusedError: access was refused, perhaps to all objects.
            TransientError: a retry may help.
            FatalError: nothing can be read.
        """

    def open(
        self, found: ListedObject, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[ObjectBody]:
        """Open the bytes of an object from one position up to another (exclusive; None: to the end).

        Raises:
            RecordError, ObjectRefusedError, TransientError, FatalError: as for `read`; reading the body
                raises TransientError if it breaks off, and RecordError if it has changed since it was listed.
        """

    async def probe(self, key: str) -> None:
        """Check that an object can be read. Raises as `read`."""

    def addresses(self, key: str) -> tuple[str, str]:
        """Return the `file_path` and the `source_uri` of an object."""


_NOTE = re.compile(
    r"(?:^|/)(?:(?:\.odw-|_odw/)[0-9a-f]{12}/[^/]+\.(?:json|tmp)|\.[^/]+\.[0-9a-f]{16}\.written)$"
)


def is_note(path: str) -> bool:
    """Return whether a sink made this file for itself, as notes or incomplete, until its run completes."""
    return path.endswith((".json", ".tmp", ".written")) and _NOTE.search(path) is not None


_BY_PRODUCT = re.compile(r"~\$.+|_SUCCESS|_(?:started|committed)_\d+|\._.+|\.DS_Store|\..+\.crc|Thumbs\.db")


def is_by_product(path: str) -> bool:
    """Return whether Office, Spark, Databricks or an operating system keeps this file beside the data."""
    name = path[path.rfind("/") + 1 :]
    return name[:1] in "~_.T" and _BY_PRODUCT.fullmatch(name) is not None


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
        """Return the selected objects, in order, without notes of sinks and by-products."""
        selected = page if self == Selection() else [found for found in page if self._wants(found)]
        return [found for found in selected if not (is_note(found.key) or is_by_product(found.key))]

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
