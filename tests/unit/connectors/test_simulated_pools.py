"""The pools behind the simulated records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# Python raises a deadlock error in one of two threads that import parts of a package in a circle. It cannot
# come to that when a thread that finds the package half imported waits for it before it holds any other part.
HELD_WHILE_THE_PACKAGE_IS_IMPORTED = """
import importlib._bootstrap as bootstrap, sys
from connectors.simulated.pools import ReadablePools

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "faker":
            print(sorted(held for held in bootstrap._module_locks if held.startswith("faker.")))

sys.meta_path.insert(0, Watch())
ReadablePools().words()
"""


@pytest.mark.slow
def test_three_sources_may_load_the_library_at_the_same_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD_WHILE_THE_PACKAGE_IS_IMPORTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"
