"""Skip or fail when a server that tests need is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["KEPT", "REQUIRED", "TOOLS", "find_program", "missing"]

REQUIRED = "ODW_REQUIRE_SERVERS"

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odw-engine" / "tools"
"""Where `.ci/run` puts what it has built; outside the tree, so that a fresh checkout finds it."""


KEPT: set[str] = set()
"""Processes that the whole session keeps: no test leaves them behind."""


def find_program(name: str, variable: str) -> Path:
    """A program: the one that the variable names, else on PATH, else in the cache. May skip the test."""
    named = os.environ.get(variable)
    if named:
        if not os.access(named, os.X_OK):
            missing(f"{variable} names no program: {named}")
        return Path(named)
    found = shutil.which(name) or shutil.which(name, path=TOOLS)
    if found is None:
        missing(f"no `{name}` on PATH or in {TOOLS}: run .ci/run, which builds it, or set {variable}")
    return Path(found)


def missing(why: str) -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{why} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(why)
