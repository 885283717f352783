"""A watchdog that reports where the event loop is blocked.

A blocking call stops all heartbeats and lease renewals of the process. Other workers then take over the
chunks; this reports the cause.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from time import monotonic
from traceback import extract_stack
from typing import Self

FRAMES = 4
LOOK_EVERY = 1.0
SLICE = 0.05  # of a wait for an answer, so that ending the watchdog does not delay the loop


class Watchdog:
    """Watches the running event loop from its own thread, during a `with` block on that loop.

    Args:
        limit: seconds for which the loop may be blocked.
        tell: called in the thread with a message and the seconds so far: once when the limit is exceeded, and
            once when the loop answers again.
    """

    def __init__(self, limit: float, tell: Callable[[str, float], None]) -> None:
        self._limit = limit
        self._tell = tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="event-loop-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(LOOK_EVERY, self._limit)):
            answered, asked = threading.Event(), monotonic()
            self._loop.call_soon_threadsafe(answered.set)
            if self._waited_for(answered, until=asked + self._limit):
                continue
            self._tell(f"the event loop is blocked at {self._where()}", monotonic() - asked)
            if self._waited_for(answered):
                self._tell("the event loop runs again", monotonic() - asked)

    def _waited_for(self, answered: threading.Event, *, until: float = float("inf")) -> bool:
        """Return whether the loop has answered, or the watchdog was stopped."""
        while not answered.wait(SLICE):
            if self._over.is_set():
                return True
            if monotonic() >= until:
                return False
        return True

    def _where(self) -> str:
        frame = sys._current_frames().get(self._watched)
        stack = extract_stack(frame)[-FRAMES:] if frame is not None else []
        return ", called by ".join(f"{one.filename}:{one.lineno} ({one.name})" for one in reversed(stack))
