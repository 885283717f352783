"""The source `files`: whole files of this machine, read as the source `s3` reads objects."""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import anyio.to_thread
from pydantic import Field, field_validator

from connectors.files.contents import open_descriptor
from connectors.files.errors import FileUnreadableError, unreadable
from connectors.files.finding import find_files
from connectors.files.sharing import reads_files
from connectors.files.walking import alternatives, displayed, path_matcher
from connectors.objects.content import ObjectBody
from connectors.objects.decoding import decode_whole
from connectors.objects.listed import FileRecord, ListedObject
from connectors.objects.params import ObjectParams, keeps_bookmarks, listed
from connectors.objects.source import ObjectSource
from engine.contract.claims import Claim
from engine.contract.component import Context, Kind, Locality, component
from engine.contract.params import check_file_name
from engine.errors import FatalError, RecordError

PAGE_FILES = 1000
PIECE = 256 * 1024
_ESCAPED_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")


class FilesParams(ObjectParams):
    """What to read."""

    pattern: str | list[str] = Field(
        description="Path with wildcards (`*`, `**`, `?`, `[…]`, `{…}`): `memos/**/*.{txt,pdf}`; "
        "or a list of them"
    )

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, value: str | list[str]) -> str | list[str]:
        patterns = listed(value)
        if not patterns or not all(patterns):
            raise ValueError("the pattern is empty")
        for one in patterns:
            if "://" in one:
                raise ValueError(f"{one!r} is an address; the source `files` reads paths of this machine")
            check_file_name(one)
        return value

    @field_validator("exclude")
    @classmethod
    def _exclude(cls, value: str | list[str]) -> str | list[str]:
        try:
            for one in listed(value):
                alternatives(one)
        except FatalError as error:
            raise ValueError(str(error)) from error
        return value

    @property
    def excluded(self) -> Callable[[str], bool] | None:
        """Return the test for excluded paths, or None if nothing is excluded."""
        patterns = [os.path.expanduser(one) for one in listed(self.exclude)]
        if not patterns:
            return None
        matches = path_matcher(patterns)
        return lambda path: matches(os.path.normpath(path)) or matches(path)


class _Folder:
    """The files of this machine as a store. A path is a key; size and modification time are its ETag."""

    def __init__(self, params: FilesParams, ctx: Context) -> None:
        self._params = params
        self._ctx = ctx
        self.scope = ""
        self.prefix = ""

    async def pages(self, *, after: str = "") -> AsyncGenerator[Sequence[ListedObject], None]:
        paths = await anyio.to_thread.run_sync(self._find)
        paths = paths[bisect_right(paths, after) :]
        for start in range(0, len(paths), PAGE_FILES):
            page = paths[start : start + PAGE_FILES]
            yield await anyio.to_thread.run_sync(_all_listed, page)

    def _find(self) -> list[str]:
        found: set[str] = set()
        for pattern in listed(self._params.pattern):
            result = find_files(pattern)
            for what, number in result.skipped.items():
                if number:
                    self._ctx.count(f"skipped: {what}", number)
            # an unreadable folder is listed, so that reading it reports the reason
            found.update(part.path for part in result.parts)
        return sorted(found)

    async def read(self, found: ListedObject) -> FileRecord:
        data, info = await anyio.to_thread.run_sync(self._read, found)
        decoded = await decode_whole(data, found.key, found.key, None, self._params)
        path, uri = self.addresses(found.key)
        return {
            "file_path": path,
            "content": decoded.content,
            "content_type": decoded.content_type,
            "file_size": len(data),
            "is_binary": decoded.is_binary,
            "source_uri": uri,
            "etag": found.etag,
            "version_id": None,
            "last_modified": _modified(info) or None,
            "encoding": decoded.encoding,
            "encoding_guessed": decoded.guessed,
            "replaced_characters": decoded.replaced,
        }

    def _read(self, found: ListedObject) -> tuple[bytes, os.stat_result]:
        self._check_size(found.key, found.size)
        with _opened(found, 0) as file:
            before = os.fstat(file.fileno())
            self._check_size(found.key, before.st_size)
            try:
                pieces = list(iter(lambda: file.read(1 << 20), b""))
            except OSError as error:
                raise unreadable(found.key, error) from error
            _check_version(found._replace(etag=_version(before)), os.fstat(file.fileno()))
        return b"".join(pieces), before

    def _check_size(self, key: str, size: int) -> None:
        limit = self._params.max_object_bytes
        if size > limit:
            raise RecordError(
                f"{key} has {size:,} bytes, more than the {limit:,} of `max_object_bytes`",
                kind="ObjectTooLarge",
            )

    @asynccontextmanager
    async def open(
        self, found: ListedObject, start: int = 0, stop: int | None = None
    ) -> AsyncGenerator[ObjectBody, None]:
        # asyncio's own `cancel`, which aiostream uses, ignores anyio's shield: the thread may still be
        # opening the file when this task ends, and then closes it itself
        opened: list[IO[bytes]] = []
        bodies: list[_FileBody] = []
        done = False

        def open_file() -> None:
            opened.append(_opened(found, start))
            try:
                bodies.append(_FileBody(opened[0], found, None if stop is None else stop - start))
            finally:
                if done:
                    opened[0].close()

        try:
            await anyio.to_thread.run_sync(open_file)
            yield bodies[0]
        finally:
            done = True
            for file in opened:
                file.close()

    async def probe(self, key: str) -> None:
        def first_byte() -> None:
            try:
                with open(_os_path(key), "rb", buffering=0, opener=open_descriptor) as file:
                    file.read(1)
            except OSError as error:
                raise unreadable(key, error) from error

        await anyio.to_thread.run_sync(first_byte)

    def addresses(self, key: str) -> tuple[str, str]:
        return key, Path(os.path.abspath(_os_path(key))).as_uri()


class _FileBody:
    """The body of a file, in the version that was listed."""

    content_type: str | None = None
    content_encoding: str | None = None

    def __init__(self, file: IO[bytes], found: ListedObject, left: int | None) -> None:
        self._file = file
        self._found = found
        self._left = left
        self.size = os.fstat(file.fileno()).st_size
        # a small file is read by the thread that opens it, up to its end
        wanted = self._wanted
        first = self._next(wanted)
        self._ahead = [first, self._next(wanted - len(first))] if len(first) < wanted else [first]

    @property
    def _wanted(self) -> int:
        return PIECE if self._left is None else min(PIECE, self._left)

    def _next(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise unreadable(self._found.key, error) from error

    async def read(self) -> bytes:
        size = self._wanted
        if size <= 0:
            return b""
        data = self._ahead.pop(0) if self._ahead else await anyio.to_thread.run_sync(self._next, size)
        if self._left is not None:
            self._left -= len(data)
        if not data or self._left == 0:
            _check_version(self._found, os.fstat(self._file.fileno()))
        return data


def _opened(found: ListedObject, start: int) -> IO[bytes]:
    path = _os_path(found.key)
    if os.path.isdir(path):
        raise _unreadable_folder(found.key, path)
    try:
        file = open(path, "rb", buffering=0, opener=open_descriptor)  # noqa: SIM115 - the body closes it
        try:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise FileUnreadableError(f"cannot read {found.key}: it is a pipe, socket or device")
            _check_version(found, info)
            file.seek(start)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise unreadable(found.key, error) from error
    return file


def _check_version(found: ListedObject, info: os.stat_result) -> None:
    if found.etag not in ("", _version(info)):
        raise RecordError(
            f"{found.key} changed after it was listed; start a new run to read it", kind="ObjectChanged"
        )


def _all_listed(paths: Sequence[str]) -> list[ListedObject]:
    return list(map(_listed, paths))


def _listed(path: str) -> ListedObject:
    try:
        info = os.stat(_os_path(path))
    except OSError:
        return ListedObject(path, "", 0)  # reading it reports the reason
    if stat.S_ISDIR(info.st_mode):
        return ListedObject(path, "", 0)
    return ListedObject(path, _version(info), info.st_size, _modified(info))


def _modified(info: os.stat_result) -> str:
    """Return when a file was modified; "" if that is outside of the calendar."""
    try:
        return datetime.fromtimestamp(info.st_mtime, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def _version(info: os.stat_result) -> str:
    return f"{info.st_mtime_ns:x}-{info.st_size:x}"


def _os_path(shown: str) -> str:
    r"""Return the path for its displayed form, in which bytes that are not UTF-8 appear as `\xe9`."""
    if os.path.lexists(shown):
        return shown
    return os.fsdecode(_ESCAPED_BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), shown.encode()))


def _unreadable_folder(shown: str, path: str) -> FileUnreadableError:
    try:
        with os.scandir(path):
            reason = "it is a folder"
    except OSError as error:
        reason = error.strerror or str(error)
    return FileUnreadableError(f"cannot read {shown}: {reason}", record_kind="FolderUnreadable")


def _claim(params: FilesParams) -> Claim:
    return reads_files(listed(params.pattern), params.excluded)


@component(
    Kind.SOURCE,
    "files",
    params=FilesParams,
    extra="s3",
    locality=Locality.MACHINE,
    bookmarks=keeps_bookmarks,
    claim=_claim,
)
class FilesSource(ObjectSource[FilesParams]):
    """Reads files of this machine that match a wildcard pattern, each as one record, as `s3` does.

    A record has the fields of `S3FileContent`: `file_path` (the path as the pattern writes it), `source_uri`
    (`file://…`), `content`, `content_type`, `file_size` in bytes, `is_binary`, and further facts about the
    file and its text. The key is `path@version`, where the version depends on modification time and size: a
    file that is written again has a new key.

    The listing is stored before anything is read, and a resumed run uses it. A file that has changed or
    vanished since, or a file or folder that cannot be read while others can, becomes a dead letter. Links to
    folders are followed, each folder once; pipes, sockets and devices are skipped and counted.

    With `mode: changed`, a file that an earlier run delivered is skipped unless it has changed since.
    """

    @property
    def named(self) -> str:
        """Return the pattern, for messages."""
        return ", ".join(displayed(one) for one in listed(self.params.pattern))

    async def open_store(self, stack: AsyncExitStack) -> _Folder:
        """Do nothing: files are opened when they are read."""
        return _Folder(self.params, self.ctx)
