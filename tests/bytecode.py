"""Lets this process keep the modules that it compiles, until all tests are collected.

Where the environment forbids that, as images often do, each process that a test starts compiles the engine
again, so does every workflow in Temporal's sandbox, and pytest rewrites hypothesis for each of its workers.
Imported before the other modules of `tests`, because it is about what those import.
"""

from __future__ import annotations

import sys

__all__ = ["WITHOUT"]

WITHOUT, sys.dont_write_bytecode = sys.dont_write_bytecode, False
"""Whether the environment forbids compiled modules."""
