"""Check that a test leaves no child processes, sockets and async generators behind."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import AsyncGeneratorType
from typing import Any

from tests.servers import warm_start
from tests.servers.needed import KEPT

__all__ = [
    "generators_begun",
    "no_child_process",
    "no_open_generator",
    "no_socket",
    "watch_generators",
    "with_addresses",
]

TASKS = "/proc/self/task"
DESCRIPTORS = "/proc/self/fd"
LIBRARIES = "site-packages"  # httpx, for one, leaves it to the loop to close what it iterates over
TCP_STATES = (
    *("NONE", "ESTABLISHED", "SYN-SENT", "SYN-RECEIVED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED"),
    *("CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECEIVED"),
)
PATIENCE = 60.0  # seconds for what is being closed by another thread or by the kernel

Generator = AsyncGeneratorType[Any, Any]
FirstIteration = Callable[[Generator], None]


@contextmanager
def no_child_process() -> Iterator[None]:
    """Every process that is started in the block has ended and been waited for at its end."""
    before = _child_processes()
    yield
    _fail_with("child processes behind", _left_over(_child_processes, before))


@contextmanager
def no_socket() -> Iterator[None]:
    """Every socket that is opened in the block is closed at its end."""
    before = _sockets()
    yield
    if left := _left_over(_sockets, before):  # only then: the kernel takes 10 ms to list all connections
        _fail_with("sockets open", with_addresses(left))


@contextmanager
def no_open_generator() -> Iterator[None]:
    """Every async generator that begins in the block has ended, or been closed, at its end.

    It is not enough that the event loop closes it when it shuts down, or the garbage collector when it comes
    by: whoever begins one closes it, and at a moment that one can name.
    """
    with generators_begun(lambda file: LIBRARIES not in file) as begun:
        yield
        left = [one for one in begun if one.ag_frame is not None]
        places = [_place(one) for one in left]
        for one in left:  # its loop has ended, and could not do it when the garbage collector comes by
            with suppress(StopIteration, RuntimeError):
                one.aclose().send(None)
        _fail_with("async generators open", places)


@contextmanager
def generators_begun(wanted: Callable[[str], bool]) -> Iterator[list[Generator]]:
    """The async generators that begin in the block, those whose code is in a wanted file.

    They are held, so that no garbage collection closes one before the end of the block.
    """
    before, _watching.block = _watching.block, _Block(wanted)
    try:
        yield _watching.block.begun
    finally:
        _watching.block = before


def watch_generators() -> None:
    """Learn of every async generator that begins on an event loop, from now on.

    Event loops set hooks of the interpreter for that; they are set along the way. A loop is not told of the
    generators that begin while they are watched: it would close them at its end, and hide the leak.
    """
    if sys.set_asyncgen_hooks is not _set_hooks:
        sys.set_asyncgen_hooks = _set_hooks


class _Block:
    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self.wanted = wanted
        self.begun: list[Generator] = []


class _Watching:
    """The innermost block in which generators are watched; None outside of all."""

    block: _Block | None = None


_watching = _Watching()


class _Watched:
    """What the interpreter calls at the first iteration of an async generator."""

    def __init__(self, told: FirstIteration) -> None:
        self._told = told

    def __call__(self, generator: Generator) -> None:
        block = _watching.block
        if block is not None and block.wanted(generator.ag_code.co_filename):
            block.begun.append(generator)
        else:
            self._told(generator)


_set_hooks_really = sys.set_asyncgen_hooks
_UNCHANGED: Any = object()


def _set_hooks(firstiter: Any = _UNCHANGED, finalizer: Any = _UNCHANGED) -> None:
    given: dict[str, Any] = {}
    if firstiter is not _UNCHANGED:
        is_watched = firstiter is None or isinstance(firstiter, _Watched)
        given["firstiter"] = firstiter if is_watched else _Watched(firstiter)
    if finalizer is not _UNCHANGED:
        given["finalizer"] = finalizer
    _set_hooks_really(**given)


def _fail_with(what: str, left: Collection[str]) -> None:
    if left:
        raise AssertionError(f"the test left {what}: {', '.join(sorted(left))}")


def _place(generator: Generator) -> str:
    frame = generator.ag_frame
    assert frame is not None, "one that has ended is not left open"
    return f"{generator.__qualname__} at {frame.f_code.co_filename}:{frame.f_lineno}"


def _child_processes() -> set[str]:
    found: set[str] = warm_start.running()
    for task in os.listdir(TASKS) if os.path.exists(TASKS) else ():
        try:
            with open(f"{TASKS}/{task}/children") as children:
                found.update(children.read().split())
        except OSError:  # the thread has ended meanwhile
            continue
    return found


def _sockets() -> set[str]:
    found: set[str] = set()
    for descriptor in os.listdir(DESCRIPTORS) if os.path.exists(DESCRIPTORS) else ():
        try:
            target = os.readlink(f"{DESCRIPTORS}/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def with_addresses(descriptors: Collection[str]) -> list[str]:
    """Add the ports at both ends and the state (RFC 9293) to names of TCP sockets, as in `socket:[42]`."""
    ends: dict[str, str] = {}
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        with suppress(OSError), open(table) as lines:
            for _, here, there, state, *rest in map(str.split, lines.readlines()[1:]):
                ports = [int(end.rpartition(":")[2], 16) for end in (here, there)]
                ends[f"socket:[{rest[5]}]"] = f"port {ports[0]} to {ports[1]}, {TCP_STATES[int(state, 16)]}"
    return sorted(
        f"{one} ({ends[name]})" if (name := one.rpartition(" ")[2]) in ends else one for one in descriptors
    )


def _left_over(look: Callable[[], set[str]], before: set[str]) -> set[str]:
    left = look() - before - KEPT
    until = time.monotonic() + PATIENCE
    while left and time.monotonic() < until:
        gc.collect()
        time.sleep(0.02)
        left = look() - before - KEPT
    return left
