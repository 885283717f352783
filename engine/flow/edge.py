"""Edges: small bounded streams of batches.

anyio's streams yield to the event loop at every hop, 30 µs each. An edge first tries without waiting. When
both sides are busy, they take turns: the sender yields as soon as a page is waiting (`CROWDED`), the receiver
when nothing is. A turn costs a third of a wake-up, and the batch is still in the processor's cache. Only a
side that has nothing to do after a turn waits to be woken, the sender until there is room for several
batches. A loop over an edge has to yield explicitly (`Pacer`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter

import anyio
from anyio.lowlevel import checkpoint

from engine.contract.batch import Batch

YIELD_AFTER = 0.001
CROWDED = 512  # records waiting in an edge at which the receiver should have its turn


class Edge:
    """A bounded stream of batches between segments, with several senders and one receiver.

    A batch stays in the edge until `receive_nowait` has returned it, so a cancelled wait loses none.

    Attributes:
        records: number of waiting records, in all batches.
    """

    def __init__(self, buffer: int) -> None:
        self._buffer = max(1, buffer)
        self._batches: deque[Batch] = deque()
        self.records = 0
        self._senders = 0
        self._ended = False
        self._filled: anyio.Event | None = None
        self._room: anyio.Event | None = None

    def open_sender(self) -> None:
        """Register one more sending segment."""
        self._senders += 1

    def close_sender(self) -> None:
        """Unregister a sending segment; the last one ends the stream."""
        self._senders -= 1
        if self._senders == 0:
            self.close()

    def close(self) -> None:
        """End the stream."""
        self._ended = True
        self._wake_receiver()

    def offer(self, batch: Batch) -> bool:
        """Send a batch if there is room and no other sender waits; return whether it was sent."""
        if len(self._batches) >= self._buffer or self._room is not None:
            return False
        self._batches.append(batch)
        self.records += len(batch.records)
        if self._filled is not None:
            self._wake_receiver()
        return True

    async def send(self, batch: Batch) -> None:
        """Send a batch, waiting while the buffer is full."""
        while not self.offer(batch):
            if self._room is None:
                self._room = anyio.Event()
            await self._room.wait()

    def receive_nowait(self) -> Batch:
        """Receive the next batch without waiting; raises `anyio.WouldBlock` or `anyio.EndOfStream`."""
        batches = self._batches
        if not batches:
            raise anyio.EndOfStream if self._ended else anyio.WouldBlock
        batch = batches.popleft()
        self.records -= len(batch.records)
        if self._room is not None and len(batches) <= self._buffer // 2:
            room, self._room = self._room, None
            room.set()
        return batch

    async def receive(self) -> Batch:
        """Receive the next batch; raises `anyio.EndOfStream`."""
        await self.wait()
        return self.receive_nowait()

    async def wait(self) -> bool:
        """Wait for a batch; False at the end of the stream."""
        if not self._batches and not self._ended:
            await checkpoint()
        while not self._batches and not self._ended:
            self._filled = anyio.Event()
            await self._filled.wait()
        return bool(self._batches)

    def _wake_receiver(self) -> None:
        filled, self._filled = self._filled, None
        if filled is not None:
            filled.set()

    @property
    def held(self) -> int:
        """Number of batches in the buffer."""
        return len(self._batches)


class Pacer:
    """Yields to the event loop when a task has run for a millisecond.

    Args:
        edges: edges that the task sends to; it also yields when one of them is crowded.
    """

    __slots__ = ("_edges", "_since")

    def __init__(self, edges: Sequence[Edge] = ()) -> None:
        self._edges = edges
        self._since = perf_counter()

    def due(self, now: float) -> bool:
        """Return whether it is time for `pause()`; `now` is a value of `perf_counter`."""
        if now - self._since >= YIELD_AFTER:
            return True
        for edge in self._edges:  # noqa: SIM110 - `any` would make a generator for each batch
            if edge.records >= CROWDED:
                return True
        return False

    async def pause(self) -> None:
        """Let other tasks run; a cancellation point."""
        await checkpoint()
        self._since = perf_counter()
