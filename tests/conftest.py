"""Every test leaves nothing behind: no child process and no socket that it opened."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TASKS = Path("/proc/self/task")
DESCRIPTORS = Path("/proc/self/fd")
PATIENCE = 2.0  # seconds for what is being closed by another thread or by the kernel


def _child_processes() -> set[str]:
    found: set[str] = set()
    for task in TASKS.iterdir() if TASKS.exists() else ():
        try:
            found |= set((task / "children").read_text().split())
        except OSError:  # the thread has ended meanwhile
            continue
    return found


def _sockets() -> set[str]:
    found: set[str] = set()
    for descriptor in DESCRIPTORS.iterdir() if DESCRIPTORS.exists() else ():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def _left_over(look: Callable[[], set[str]], before: set[str]) -> set[str]:
    left = look() - before
    until = time.monotonic() + PATIENCE
    while left and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
        left = look() - before
    return left


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    children, sockets = _child_processes(), _sockets()
    yield
    assert _left_over(_child_processes, children) == set(), "the test left child processes behind"
    assert _left_over(_sockets, sockets) == set(), "the test left sockets open"
