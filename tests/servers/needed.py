"""What to do when a server that tests need is not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["KEPT", "REQUIRED", "TOOLS", "missing"]

REQUIRED = "ODW_REQUIRE_SERVERS"

TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odw-engine" / "tools"
"""Where `.ci/run` puts what it has built; outside the tree, so that a fresh checkout finds it."""


KEPT: set[str] = set()
"""Processes that the whole session keeps: no test leaves them behind."""


def missing(why: str) -> NoReturn:
    """Skip the test, or fail it where servers are required."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{why} ({REQUIRED} is set)", pytrace=False)
    pytest.skip(why)
