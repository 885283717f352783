"""Detect what a component leaves in the process, and I/O while it is built."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path

from tests.leaks import generators_begun, with_addresses

DESCRIPTORS = Path("/proc/self/fd")
OURS = ("/connectors/", "/engine/", "/aiostream/")
PATIENCE = 120.0
"""Seconds for connections that are closing; only a test that fails waits so long."""

_IO_EVENTS = frozenset(
    {"open", "os.listdir", "os.scandir", "socket.connect", "socket.bind", "subprocess.Popen"}
)
_watched: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event in _IO_EVENTS:
        _watched[-1].append(f"{event} {arguments[:1]}")


@cache
def _listen() -> None:
    sys.addaudithook(_hook)  # cannot be taken away again, and is called at every import of the process


@contextmanager
def io_done() -> Iterator[list[str]]:
    """The files, folders, sockets and processes that are opened inside the block."""
    _listen()
    seen: list[str] = []
    _watched.append(seen)
    try:
        yield seen
    finally:
        _watched.pop()


def _descriptors() -> set[str]:
    found: set[str] = set()
    for entry in DESCRIPTORS.iterdir() if DESCRIPTORS.exists() else ():
        try:
            found.add(f"{entry.name} -> {os.readlink(entry)}")
        except OSError:  # the one that lists the folder
            continue
    return found


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fails when the block leaves a task, a descriptor or a generator that has begun and not ended."""
    await asyncio.to_thread(int)  # so that the pool's first thread is not taken for a trace
    tasks, descriptors = asyncio.all_tasks(), _descriptors()
    with generators_begun(lambda file: any(part in file for part in OURS)) as begun:
        yield
        unfinished = [one.__qualname__ for one in begun if one.ag_frame is not None]
    assert unfinished == [], "left open"
    until = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.all_tasks() - tasks or _descriptors() - descriptors:
        if asyncio.get_running_loop().time() > until:
            break
        gc.collect()  # a server in another thread may hold a broken connection in the cycle of its error
        await asyncio.sleep(0.02)
    assert asyncio.all_tasks() - tasks == set(), "left running"
    left = _descriptors() - descriptors
    assert left == set(), f"left open: {with_addresses(left)}"
    gc.collect()  # a ResourceWarning is an error here, in the test that caused it
