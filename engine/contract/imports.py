"""Slow imports of libraries, without blocking the event loop and without deadlocks."""

from __future__ import annotations

import threading
from importlib import import_module

import anyio

__all__ = ["load_modules"]

_lock = threading.Lock()
_loaded: set[str] = set()


async def load_modules(*names: str) -> None:
    """Import modules in this order in a worker thread, one call at a time.

    Where one thread imports a package and another one of its submodules, each can wait for the other. Python
    then fails one of the two imports (`_DeadlockError` of `importlib`), and the pipeline that needs it.

    Raises:
        ImportError: a module is not installed.
    """
    if not _loaded.issuperset(names):
        await anyio.to_thread.run_sync(_load, names)


def _load(names: tuple[str, ...]) -> None:
    with _lock:
        for name in names:
            import_module(name)
            _loaded.add(name)
