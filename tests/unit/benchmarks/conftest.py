"""``benchmarks`` is not an installed package: it is imported from the root of the repository."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).resolve().parents[3])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


@pytest.fixture(autouse=True)
def _only_own_garbage(only_own_garbage: None) -> None:
    """A benchmark collects garbage before each sample."""
