"""Let this process cache the bytecode of modules until all tests are collected.

Where the environment forbids that, as images often do, each process that a test starts compiles the engine
again, so does every workflow in Temporal's sandbox, and pytest rewrites hypothesis for each of its workers.
Imported before the other modules of `tests`, because it is about what those import.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import pytest
from _pytest.assertion import rewrite

__all__ = ["WITHOUT", "rewrite_share"]

ROOT = Path(__file__).parents[1]
REWRITTEN = (("engine", "*.py"), ("connectors", "*.py"), ("tests", "test_*.py"))
"""What pytest rewrites; the packages, because they have a plugin of pytest."""

WITHOUT, sys.dont_write_bytecode = sys.dont_write_bytecode, False
"""Whether the environment forbids compiled modules."""


def rewrite_share(config: pytest.Config, number: int, workers: int) -> None:
    """Rewrite those modules that are a worker's share, where none has: each would rewrite all of them."""
    found = chain.from_iterable((ROOT / folder).rglob(names) for folder, names in REWRITTEN)
    for path in sorted(found)[number::workers]:
        kept = rewrite.get_cache_dir(path) / (path.name[:-3] + rewrite.PYC_TAIL)
        if not kept.exists() and rewrite.try_makedirs(kept.parent):
            digest, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, digest, kept)
