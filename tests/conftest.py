"""Every test leaves nothing behind, no child process and no socket; `anyio` tests run on both backends."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers.needed import KEPT

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres

os.environ.pop("ODW_STATE", None)  # the state of whoever runs the tests is not theirs

TASKS = Path("/proc/self/task")
DESCRIPTORS = Path("/proc/self/fd")
PATIENCE = 2.0  # seconds for what is being closed by another thread or by the kernel

Collected = pytest.Item | pytest.Collector | list[pytest.Item | pytest.Collector] | None


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
    left = look() - before - KEPT
    until = time.monotonic() + PATIENCE
    while left and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
        left = look() - before - KEPT
    return left


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    children, sockets = _child_processes(), _sockets()
    yield
    assert _left_over(_child_processes, children) == set(), "the test left child processes behind"
    assert _left_over(_sockets, sockets) == set(), "the test left sockets open"


@pytest.fixture
def only_own_garbage() -> Iterator[None]:
    """A collection that the test asks for looks only at what was made since; all else takes a second."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests, which may find in its database what others have left there."""
    from tests.servers.postgres import running

    with running(kept=True) as server:
        yield server


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend that a test marked `anyio` runs on."""
    return str(request.param)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem() -> Generator[None, Collected, Collected]:
    """Hand tests marked `anyio` to anyio's plugin alone.

    In its auto mode pytest-asyncio takes every coroutine for itself, so that a test named `[trio]` would
    silently run on asyncio. A plain item in the place of pytest-asyncio's is left to anyio.
    """
    collected = yield
    if not isinstance(collected, list):
        return collected
    return [
        _plain(item) if isinstance(item, pytest.Function) and item.get_closest_marker("anyio") else item
        for item in collected
    ]


def _plain(item: pytest.Function) -> pytest.Function:
    plain: pytest.Function = pytest.Function.from_parent(
        item.parent,
        name=item.name,
        callspec=getattr(item, "callspec", None),
        callobj=item.obj,
        fixtureinfo=item._fixtureinfo,
        originalname=item.originalname,
    )
    return plain
