"""The sink `files`: files of records in a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from pydantic import Field, field_validator

from connectors.addresses import without_fields
from connectors.files.errors import make_folder
from connectors.files.sharing import place_of
from connectors.objects.part_files import NOTE
from connectors.objects.part_sink import PartParams, PartSink, needs_whole_run, parts_claim
from connectors.objects.partitions import is_partition
from engine.contract.claims import Claim
from engine.contract.component import Kind, Locality, component
from engine.contract.params import LocalPath
from engine.errors import FatalError

T = TypeVar("T")


class FilesSinkParams(PartParams):
    """Where to write, and how."""

    path: LocalPath = Field(min_length=1, description="Folder of the files; created if it does not exist")

    @field_validator("path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(f"{value!r} is an address; the sink `files` writes to paths of this machine")
        return without_fields(value)


class _FolderOfParts:
    """A folder. Files are renamed into place, so no reader sees half a file."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._path = Path(os.path.expanduser(shown))

    async def open(self) -> None:
        await self._run(lambda: make_folder(self._path))

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work)
        except OSError as error:
            raise FatalError(f"cannot write to {self._shown}: {error.strerror or error}") from error

    def _notes(self, token: str) -> Path:
        return self._path / f".odw-{token}"

    async def sizes(self) -> Mapping[str, int]:
        return await self._run(lambda: dict(_sizes(self._path, "")))

    async def notes(self, token: str) -> Mapping[str, bytes]:
        def look() -> dict[str, bytes]:
            files = self._notes(token).glob(f"*{NOTE}")
            return {file.name.removesuffix(NOTE): file.read_bytes() for file in files}

        return await self._run(look)

    async def has_note(self, token: str, name: str) -> bool:
        return await self._run((self._notes(token) / f"{name}{NOTE}").exists)

    async def put_note(self, token: str, name: str, data: bytes) -> None:
        folder = self._notes(token)
        await self._run(lambda: _replace(folder / f"{name}{NOTE}", folder / f"{name}{NOTE}.tmp", data))

    async def put(self, token: str, name: str, data: bytes) -> None:
        path = self._path / name
        temporary = self._notes(token) / f"{path.name}.tmp"

        def write() -> None:
            _make_folders(path.parent)
            _replace(path, temporary, data)

        await self._run(write)

    async def delete(self, name: str) -> None:
        def remove() -> None:
            path = self._path / name
            path.unlink(missing_ok=True)
            with suppress(OSError):  # other files are in the partition
                while (path := path.parent) != self._path:
                    path.rmdir()

        await self._run(remove)

    async def delete_notes(self, token: str) -> None:
        def remove() -> None:
            folder = self._notes(token)
            for file in folder.glob("*"):
                file.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()

        await self._run(remove)


def _sizes(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    # another process may remove any of them meanwhile
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_dir():
                    if is_partition(entry.name):
                        yield from _sizes(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.is_file() and not entry.name.startswith("."):
                    yield prefix + entry.name, entry.stat().st_size


def _make_folders(folder: Path) -> None:
    """Create the folders of a partition durably."""
    if not folder.exists():
        _make_folders(folder.parent)
        make_folder(folder)
        _sync(folder.parent)


def _replace(path: Path, temporary: Path, data: bytes) -> None:
    """Replace a file atomically: a crash leaves the old or the new content."""
    temporary.parent.mkdir(exist_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim(params: FilesSinkParams) -> Claim:
    return parts_claim(place_of(params.path), params.path, params)


@component(
    Kind.SINK,
    "files",
    params=FilesSinkParams,
    locality=Locality.MACHINE,
    whole_run=needs_whole_run,
    claim=_claim,
)
class FilesSink(PartSink[FilesSinkParams]):
    """Write records to files in a folder: JSON lines, CSV or Parquet.

    A new file is started after `rotate_records`, `rotate_bytes` (of records in memory) or `rotate_seconds`.
    Files appear only when complete; a batch that is written again replaces its file, and a resumed run writes
    no record twice: until the run completes, the keys of written records are kept in `.odw-RUN` in the
    folder.

    A new run adds files, replaces those of earlier runs when it completes (`mode: replace`), or refuses to
    start if the folder has files (`mode: error`).
    """

    @property
    def named(self) -> str:
        """The place of the files, for messages."""
        return self.params.path

    async def open_store(self, stack: AsyncExitStack) -> _FolderOfParts:
        """Open the folder, creating it if it does not exist."""
        folder = _FolderOfParts(self.params.path)
        await folder.open()
        return folder
