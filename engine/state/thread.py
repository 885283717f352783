"""A thread that executes calls for an event loop, in groups of all waiting calls.

The first call is executed at once. Calls that arrive meanwhile are executed next, together: a lone call is
never delayed, and a busy thread shares more work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled, current_token

T = TypeVar("T")


class Call(Generic[T]):
    """A call in the thread and its outcome.

    Args:
        writes: whether it changes data; for the worker.

    Attributes:
        result, error: set by the worker; an error is raised in the waiting task.
    """

    __slots__ = ("done", "error", "function", "result", "writes")

    def __init__(self, function: Callable[..., T], *, writes: bool = False) -> None:
        self.function = function
        self.writes = writes
        self.done = anyio.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    async def outcome(self) -> T:
        """Wait for the call, even if cancelled, and return or raise its outcome."""
        with anyio.CancelScope(shield=True):
            await self.done.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.result  # type: ignore[return-value]  # it has one where it has no error


class CallThread:
    """Runs from `start` to `stop`. Used by the event loop that starts it.

    A task cancelled before its call is queued makes no call; after that it waits for the end. A task
    cancelled by asyncio itself continues at once and leaves its call running; `stop` waits for that too.

    Args:
        begin: called first, in the thread; `start` raises its error.
        work: executes the given calls and reports each as soon as it is done.
        end: called last, in the thread.
    """

    def __init__(
        self,
        begin: Callable[[], None],
        work: Callable[[Sequence[Call[Any]]], Iterable[Sequence[Call[Any]]]],
        end: Callable[[], None],
    ) -> None:
        self._work = work
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        self._begun, self._ended = Call(begin), Call(end)
        # asyncio's or trio's own way to call in from a thread; with anyio's the thread would wait for the
        # loop
        loop: Any = current_token().native_token
        post = "call_soon_threadsafe" if hasattr(loop, "call_soon_threadsafe") else "run_sync_soon"
        self._post: Callable[..., object] = getattr(loop, post)
        # a daemon, so that the interpreter does not wait for an open store
        self._thread = Thread(target=self._run, name="state store", daemon=True)

    async def start(self) -> None:
        """Start the thread. Raises the error of `begin`."""
        self._thread.start()
        await self._begun.outcome()

    async def make(self, call: Call[T]) -> T:
        """Execute a call and return or raise its outcome."""
        await checkpoint_if_cancelled()
        self._calls.put(call)
        return await call.outcome()

    async def stop(self) -> None:
        """Execute the queued calls, then end. Raises the error of `end`."""
        self._calls.put(None)
        await self._ended.outcome()

    def _run(self) -> None:
        self._make(self._begun)
        self._tell([self._begun])
        last = False
        while not last:
            came = [self._calls.get()]
            while not self._calls.empty():
                came.append(self._calls.get())
            last = None in came
            calls = [call for call in came if call is not None]
            self._work_on(calls)
        self._make(self._ended)
        self._tell([self._ended])

    def _work_on(self, calls: list[Call[Any]]) -> None:
        told: list[Call[Any]] = []
        try:
            for done in self._work(calls):
                self._tell(done)
                told += done
        except BaseException as error:  # noqa: BLE001 - if the thread ended, its callers would wait forever
            left = [call for call in calls if call not in told]
            for call in left:
                call.error = error
            self._tell(left)

    def _make(self, call: Call[None]) -> None:
        try:
            call.function()
        except BaseException as error:  # noqa: BLE001 - re-raised in the caller
            call.error = error

    def _tell(self, done: Sequence[Call[Any]]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so no task waits
            self._post(_wake, done)


def _wake(done: Sequence[Call[Any]]) -> None:
    for call in done:
        call.done.set()
