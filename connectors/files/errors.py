"""Errors of files."""

from __future__ import annotations

import errno
from pathlib import Path

from connectors.objects.listed import ObjectRefusedError


class FileUnreadableError(ObjectRefusedError):
    """A file or folder cannot be read; others may be readable.

    Kinds are `FileUnreadable`, `FileVanished`, `FileDamaged`, `FileChanged` and `FolderUnreadable`.
    """

    def __init__(self, message: str, *, record_kind: str = "FileUnreadable") -> None:
        super().__init__(message, record_kind=record_kind)


def unreadable(path: str, error: OSError) -> FileUnreadableError:
    """Return the error for an OSError about a path."""
    kind = "FileVanished" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "FileUnreadable"
    return FileUnreadableError(f"cannot read {path}: {error.strerror or error}", record_kind=kind)


def make_folder(folder: Path) -> None:
    """Create a folder if it does not exist. Raises OSError, also if a file has its name."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(error.errno, f"{folder} is a file, not a folder") from error
