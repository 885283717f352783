"""`--report FILE`: the JSON report of an invocation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TextIO

from engine.cli.options import StateOptions
from engine.cli.state import shown_state
from engine.contract.clock import timestamp
from engine.errors import ConfigError, StateError
from engine.execution.report import RunReport

REPORT_VERSION = 1


def check_target(path: Path) -> None:
    """Check, before anything runs, that the report can be written.

    Raises:
        ConfigError: the folder does not exist or cannot be written to, or the path is a folder.
        OSError: the path is too long.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise ConfigError(f"--report: {path} is a directory")
    if not folder.is_dir():
        raise ConfigError(f"--report: no such directory: {folder}")
    target = path if _is_kept(path) else folder
    if target.exists() and not os.access(target, os.W_OK):
        raise ConfigError(f"--report: no permission to write to {target}")


def report_text(started_at: datetime, options: StateOptions, reports: Mapping[str, RunReport]) -> str:
    """Return the report as JSON."""
    document = {
        "version": REPORT_VERSION,
        "started_at": timestamp(started_at),
        "state_dir": str(Path(options.state_dir).absolute()),
        "state": shown_state(options),
        "pipelines": {name: report.to_json() for name, report in reports.items()},
    }
    return json.dumps(document, indent=2) + "\n"


def write_report(
    path: Path, started_at: datetime, options: StateOptions, reports: Mapping[str, RunReport]
) -> None:
    """Write the file atomically; write through links, and to devices and pipes, which are never replaced.

    Raises:
        StateError: it cannot be written.
    """
    text = report_text(started_at, options, reports)
    draft = path.with_name(f".report.{os.getpid()}.tmp")  # the path's own name may be as long as names can be
    try:
        if _is_kept(path):
            with _opened(path) as file:
                file.write(text)
            return
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StateError(f"cannot write the report to {path}: {error.strerror or error}") from error


def _is_kept(path: Path) -> bool:
    """Return whether the path is written to in place: `/dev/stdout` is a link, even to a regular file."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def _opened(path: Path) -> TextIO:
    """Open a path for writing; where standard output or error is redirected to it, continue that."""
    for fd in (1, 2) if path.exists() else ():
        with suppress(OSError):  # it may be closed
            if os.path.samestat(os.fstat(fd), path.stat()):
                return open(fd, "w", encoding="utf-8", closefd=False)
    return path.open("w", encoding="utf-8")
