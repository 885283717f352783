"""Edges: small bounded streams of batches.

anyio's streams give way to the event loop at every hop, 30 µs each. An edge tries without waiting first,
and when it has to wait, it waits until there is room for several batches: the two sides then take turns
once for many batches. Whoever loops over it must give way by itself (`Pacer`).
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint

from engine.batch import Batch

__all__ = ["Edge", "Pacer"]

YIELD_AFTER = 0.001


class Edge:
    """A bounded stream of batches from one segment to the next: several senders, one receiver.

    A batch stays in the edge until `receive_nowait` has returned it, so a cancelled wait loses none.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = max(1, buffer)
        self._batches: deque[Batch] = deque()
        self._senders = 0
        self._ended = False
        self._filled: anyio.Event | None = None
        self._room: anyio.Event | None = None

    def open_sender(self) -> None:
        """One more segment sends here."""
        self._senders += 1

    def close_sender(self) -> None:
        """A sending segment is done; the last one ends the stream."""
        self._senders -= 1
        if self._senders == 0:
            self.close()

    def close(self) -> None:
        """Nothing will be sent any more."""
        self._ended = True
        self._wake_receiver()

    def offer(self, batch: Batch) -> bool:
        """Hand a batch on if there is room now; False when there is none, or others wait for it."""
        if len(self._batches) >= self._buffer or self._room is not None:
            return False
        self._batches.append(batch)
        if self._filled is not None:
            self._wake_receiver()
        return True

    async def send(self, batch: Batch) -> None:
        """Hand a batch on, waiting while the buffer is full."""
        while not self.offer(batch):
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    def receive_nowait(self) -> Batch:
        """The next batch; raises `anyio.WouldBlock` or `anyio.EndOfStream`."""
        batches = self._batches
        if not batches:
            raise anyio.EndOfStream if self._ended else anyio.WouldBlock
        batch = batches.popleft()
        if self._room is not None and len(batches) <= self._buffer // 2:
            room, self._room = self._room, None
            room.set()
        return batch

    async def receive(self) -> Batch:
        """The next batch; raises `anyio.EndOfStream`."""
        while True:
            try:
                return self.receive_nowait()
            except anyio.WouldBlock:
                pass
            self._filled = anyio.Event()
            await self._filled.wait()

    def _wake_receiver(self) -> None:
        filled, self._filled = self._filled, None
        if filled is not None:
            filled.set()

    @property
    def held(self) -> int:
        """Batches in the buffer."""
        return len(self._batches)


class Pacer:
    """Gives way to the event loop when a task has run for a millisecond without doing so."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = perf_counter()

    def due(self, now: float) -> bool:
        """True when it is time for `pause()`; `now` is what `perf_counter` says."""
        return now - self._since >= YIELD_AFTER

    async def pause(self) -> None:
        """Let other tasks run; a cancellation point."""
        await checkpoint()
        self._since = perf_counter()
