"""The sink `files`: files of records in a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from pydantic import Field, field_validator

from connectors.files.errors import make_folder
from connectors.files.sharing import place_of, without_nul
from connectors.objects.part_files import NOTE
from connectors.objects.part_sink import PartParams, PartSink, parts_claim
from engine.contract.claims import Claim
from engine.contract.component import Kind, Locality, component
from engine.errors import FatalError

__all__ = ["FilesSink", "FilesSinkParams"]

T = TypeVar("T")


class FilesSinkParams(PartParams):
    """Where to write, and how."""

    path: str = Field(min_length=1, description="Folder of the files; it is made if it is not there")

    @field_validator("path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(f"{value!r} is an address; the sink `files` writes to paths of this machine")
        return without_nul(value)


class _FolderOfParts:
    """A folder. Files are written beside it and renamed: half a file is never seen."""

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
        def look() -> dict[str, int]:
            found: dict[str, int] = {}
            with os.scandir(self._path) as entries:
                for entry in entries:
                    # another process may have removed it meanwhile
                    with suppress(FileNotFoundError):
                        if entry.is_file() and not entry.name.startswith("."):
                            found[entry.name] = entry.stat().st_size
            return found

        return await self._run(look)

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
        temporary = self._notes(token) / f"{name}.tmp"
        await self._run(lambda: _replace(self._path / name, temporary, data))

    async def delete(self, name: str) -> None:
        await self._run(lambda: (self._path / name).unlink(missing_ok=True))

    async def delete_notes(self, token: str) -> None:
        def remove() -> None:
            folder = self._notes(token)
            for file in folder.glob("*"):
                file.unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()

        await self._run(remove)


def _replace(path: Path, temporary: Path, data: bytes) -> None:
    """Have a file of this content, or the one before, whatever happens."""
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _claim(params: FilesSinkParams) -> Claim:
    return parts_claim(place_of(params.path), params.path, params)


@component(Kind.SINK, "files", params=FilesSinkParams, locality=Locality.MACHINE, claim=_claim)
class FilesSink(PartSink[FilesSinkParams]):
    """Write records to files in a folder: JSON lines, CSV or Parquet.

    A new file is begun after `rotate_records`, `rotate_bytes` (of records in memory) or `rotate_seconds`. A
    file appears whole and under its name at once; a batch that is written again replaces its file, and a run
    that is resumed writes no record twice: until it is complete, the keys of what is written are noted in
    `.odw-RUN` in the folder.

    A new run adds files, replaces those of earlier runs when it is complete (`mode: replace`), or refuses to
    begin where files are (`mode: error`).
    """

    @property
    def named(self) -> str:
        """Where the files go, for messages."""
        return self.params.path

    async def open_store(self, stack: AsyncExitStack) -> _FolderOfParts:
        """The folder, made if it is not there."""
        folder = _FolderOfParts(self.params.path)
        await folder.open()
        return folder
