"""Check this machine: the interpreter, installed extras, the state directory and free disk space."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from engine.cli.checkup.findings import Finding, Level
from engine.cli.display.numbers import counted, size
from engine.cli.options import StateOptions
from engine.cli.state import shown_state, state_of, store_of
from engine.errors import EngineError, StateMissingError
from engine.extras import EXTRAS, install_command, missing_modules
from engine.state.address import is_address

OLDEST = (3, 11)
LITTLE = 1 << 30
TOO_LITTLE = 64 << 20


def interpreter() -> Iterable[Finding]:
    """Yield findings about Python and the extras."""
    here = f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"
    if sys.version_info >= OLDEST:
        yield Finding(Level.OK, "python", f"{here}, odw-engine {version('odw-engine')}")
    else:
        remedy = "create an environment with Python 3.11 or newer"
        yield Finding(Level.PROBLEM, "python", f"{here} is too old", remedy)
    missing = [extra for extra in EXTRAS if missing_modules(extra)]
    present = [extra for extra in EXTRAS if extra not in missing]
    yield Finding(Level.OK, "extras", ", ".join(present) or "none")
    if missing:
        # an extra that the file needs is reported as a problem of the file
        found = f"not installed: {', '.join(missing)}"
        yield Finding(Level.NOTE, "extras", found, f"if you need them: {install_command(missing)}")


async def state(options: StateOptions) -> list[Finding]:
    """Return findings about the state store: whether it can be opened and written, and its free space."""
    try:
        where = state_of(options)
    except EngineError as error:
        return [Finding(Level.PROBLEM, "state", str(error))]
    shown = shown_state(options)
    findings = [] if is_address(where) else list(_folder(Path(where)))
    if any(one.level is Level.PROBLEM for one in findings):
        return findings
    try:
        async with store_of(options) as store:
            runs = await store.list_runs()
        findings.insert(0, Finding(Level.OK, "state", f"{shown}: {counted(len(runs), 'run')}"))
    except StateMissingError:
        findings.insert(0, Finding(Level.OK, "state", f"{shown}: the first run creates it"))
    except EngineError as error:
        findings.insert(0, Finding(Level.PROBLEM, "state", f"{shown}: {error}"))
    return findings


def _folder(path: Path) -> Iterable[Finding]:
    there = path.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        found = f"{there} cannot be written: {error.strerror or error}"
        remedy = f"give {_user()} the right to write there, or name another folder with --state-dir"
        yield Finding(Level.PROBLEM, "state", found, remedy)
        return
    free = shutil.disk_usage(there).free
    remedy = "free some, or name a folder on another disk with --state-dir"
    if free < TOO_LITTLE:
        yield Finding(Level.PROBLEM, "disk", f"{size(free)} free at {there}", remedy)
    elif free < LITTLE:
        yield Finding(Level.WARNING, "disk", f"{size(free)} free at {there}", remedy)
    else:
        yield Finding(Level.OK, "disk", f"{size(free)} free")


def _user() -> str:
    return os.environ.get("USER", "") or "this user"
