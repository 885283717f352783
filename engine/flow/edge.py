"""Edges: small bounded streams of batches.

anyio's `send` and `receive` give way to the event loop every time, 30 µs a hop. Trying without waiting
first costs 1 µs and keeps the same backpressure; whoever loops over it must give way by itself
(`Pacer`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from engine.batch import Batch

__all__ = ["Edge", "Pacer"]

YIELD_AFTER = 0.001


class Edge:
    """A bounded stream of batches from one segment to the next, possibly with several senders."""

    def __init__(self, buffer: int) -> None:
        self._send: MemoryObjectSendStream[Batch]
        self._receive: MemoryObjectReceiveStream[Batch]
        self._send, self._receive = anyio.create_memory_object_stream[Batch](buffer)
        self._senders = 0

    def open_sender(self) -> None:
        """One more segment sends here."""
        self._senders += 1

    def close_sender(self) -> None:
        """A sending segment is done; the last one ends the stream."""
        self._senders -= 1
        if self._senders == 0:
            self._send.close()

    def close(self) -> None:
        """Nothing will be sent or received any more."""
        self._send.close()
        self._receive.close()

    def offer(self, batch: Batch) -> bool:
        """Hand a batch on if there is room now; False when there is none."""
        try:
            self._send.send_nowait(batch)
        except anyio.WouldBlock:
            return False
        return True

    async def send(self, batch: Batch) -> None:
        """Hand a batch on, waiting while the buffer is full."""
        await self._send.send(batch)

    def receive_nowait(self) -> Batch:
        """The next batch; raises `anyio.WouldBlock` or `anyio.EndOfStream`."""
        return self._receive.receive_nowait()

    async def receive(self) -> Batch:
        """The next batch; raises `anyio.EndOfStream`."""
        return await self._receive.receive()

    @property
    def held(self) -> int:
        """Batches in the buffer."""
        return self._receive.statistics().current_buffer_used


class Pacer:
    """Gives way to the event loop when a task has run for a millisecond without doing so."""

    __slots__ = ("_clock", "_since")

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._since = clock()

    def due(self) -> bool:
        """True when it is time for `pause()`."""
        return self._clock() - self._since >= YIELD_AFTER

    async def pause(self) -> None:
        """Let other tasks run; a cancellation point."""
        await checkpoint()
        self._since = self._clock()

    def rested(self) -> None:
        """The task has just waited for something else."""
        self._since = self._clock()
