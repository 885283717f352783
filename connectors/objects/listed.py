"""What is known of an object or file before it is read, what it becomes, and where both come from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from connectors.objects.content import ObjectBody
from engine.errors import FatalError, FatalKind, RecordError

__all__ = ["FileRecord", "ListedObject", "ObjectRefusedError", "ObjectStore"]

FileRecord = dict[str, str | int | bool | None]
"""The fields of `connectors.models.S3FileContent`."""


class ObjectRefusedError(FatalError):
    """One object is refused, and perhaps all of them are.

    That is fatal if nothing else can be read either, and otherwise the object's own failure: `as_record`.
    """

    def __init__(self, message: str, *, kind: FatalKind = "config", record_kind: str) -> None:
        super().__init__(message, kind=kind)
        self.record_kind = record_kind

    def as_record(self) -> RecordError:
        """Return the error as a failure of this object alone."""
        return RecordError(str(self), kind=self.record_kind)


class ListedObject(NamedTuple):
    """An object or file as it was listed.

    `etag` without its quotes, "" when there is none; `size` in bytes, -1 when it is not known;
    `last_modified` ISO 8601 in UTC, "" when it is not known.
    """

    key: str
    etag: str
    size: int
    last_modified: str = ""

    @property
    def version(self) -> str:
        """Tells one content of the key from another: the ETag, or else size and date."""
        return self.etag or f"{self.size}-{self.last_modified}"

    def as_entry(self) -> list[str | int]:
        """The object in the manifest of a split."""
        entry: list[str | int] = [self.key, self.etag, self.size]
        return entry if self.etag else [*entry, self.last_modified]

    @classmethod
    def from_entry(cls, entry: Sequence[Any]) -> ListedObject:
        """The object from the manifest of a split."""
        key, etag, size, *modified = entry
        return cls(str(key), str(etag), int(size), *map(str, modified))


class ObjectStore(Protocol):
    """An open bucket or folder, as the sources of this package read it.

    Attributes:
        scope: names it in bookmarks, so that equal keys elsewhere are others.
        prefix: begins the keys of its records.
    """

    @property
    def scope(self) -> str: ...
    @property
    def prefix(self) -> str: ...

    def pages(self, *, after: str = "") -> AsyncGenerator[Sequence[ListedObject], None]:
        """List the objects that match the pattern, page by page.

        Args:
            after: the last key that an earlier listing has had; this one continues after it.

        Raises:
            FatalError, TransientError: it cannot be listed.
        """
        ...

    async def read(self, found: ListedObject) -> FileRecord:
        """Read one object as a record.

        Raises:
            RecordError: this object cannot be read, or is not what was listed.
            ObjectRefusedError: perhaps no object can be read.
            TransientError: trying again may help.
            FatalError: nothing can be read.
        """
        ...

    def open(
        self, found: ListedObject, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[ObjectBody]:
        """The bytes of an object from one on, up to another (exclusive; None: to the end).

        Raises:
            RecordError, ObjectRefusedError, TransientError, FatalError: as `read`; reading the body raises
                TransientError where it breaks off, and RecordError where it is not what was listed.
        """
        ...

    async def probe(self, key: str) -> None:
        """Find out whether an object could be read. Raises as `read`."""
        ...

    def addresses(self, key: str) -> tuple[str, str]:
        """The `file_path` and the `source_uri` of an object."""
        ...
