"""A segment behind an edge: batches are cut to size and worked on by several workers at once."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from math import inf
from time import perf_counter

import anyio

from engine.contract.batch import Batch
from engine.contract.component import BatchLimits
from engine.errors import EngineError
from engine.flow.batching import Batcher
from engine.flow.budget import ByteBudget
from engine.flow.edge import Edge, Pacer
from engine.flow.stats import NodeStats, Waiting
from engine.flow.stopping import Stop

__all__ = ["BatchReader", "OutOfTurnError", "Sequencer", "work"]


class BatchReader:
    """Reads an edge and yields batches as the node wants them.

    What is held to fill a batch leaves after `limits.linger` seconds, at the end of the stream, and at
    once whenever a source waits for bytes: nobody may sit on half a batch whose other half cannot be read.
    """

    def __init__(self, edge: Edge, limits: BatchLimits, budget: ByteBudget, stats: NodeStats) -> None:
        self._edge = edge
        self._limits = limits
        self._budget = budget
        self._stats = stats
        self._scope: anyio.CancelScope | None = None
        if limits.rebatches:
            budget.on_wait(self._interrupt)

    def _interrupt(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    def batches(self) -> AsyncGenerator[Batch, None]:
        """The batches, in order."""
        # no name in here may keep a batch alive behind a `yield`: when it is done, its bytes are given back
        return self._cut_to_size(Batcher(self._limits)) if self._limits.rebatches else self._as_they_come()

    async def _as_they_come(self) -> AsyncGenerator[Batch, None]:
        edge = self._edge
        while edge.held or await self._arrived():
            yield edge.receive_nowait()

    async def _arrived(self) -> bool:
        with self._stats.waits(Waiting.INPUT):
            return await self._edge.wait()

    async def _cut_to_size(self, batcher: Batcher) -> AsyncGenerator[Batch, None]:
        out: deque[Batch] = deque()
        deadline = inf
        while True:
            try:
                try:
                    batch: Batch | None = self._edge.receive_nowait()
                except anyio.WouldBlock:
                    batch = await self._receive(deadline, holding=bool(batcher))
            except anyio.EndOfStream:
                break
            due = batch is None
            if batch is not None:
                waited = bool(batcher)
                out.extend(batcher.add(batch))
                batch = None
                if out or not waited:
                    # what is held now came with this batch
                    deadline = anyio.current_time() + self._limits.linger
                while out:
                    yield out.popleft()
            if batcher and (due or self._budget.waiting or anyio.current_time() >= deadline):
                out.append(batcher.flush())
                yield out.popleft()
                deadline = inf
        if batcher:
            yield batcher.flush()

    async def _receive(self, deadline: float, *, holding: bool) -> Batch | None:
        """The next batch, or None when it is time to let go of what is held."""
        try:
            with self._stats.waits(Waiting.INPUT):
                if not holding:
                    return await self._edge.receive()
                if self._budget.waiting:
                    return None
                with anyio.CancelScope(deadline=deadline) as self._scope:
                    return await self._edge.receive()
                return None
        finally:
            self._scope = None


class OutOfTurnError(Exception):
    """An earlier batch has failed for good: what came after it may not be handed on before it."""


class Sequencer:
    """Lets workers pass in the order of their tickets, up to the first that failed."""

    def __init__(self) -> None:
        self._next = 0
        self._failed = inf
        self._waiting: dict[int, anyio.Event] = {}

    async def wait(self, ticket: int) -> None:
        """Wait until every earlier ticket is through.

        Raises:
            OutOfTurnError: one of them has failed.
        """
        if ticket != self._next and ticket <= self._failed:
            await self._waiting.setdefault(ticket, anyio.Event()).wait()
        if ticket > self._failed:
            raise OutOfTurnError

    def leave(self, ticket: int) -> None:
        """This ticket is through; call it exactly once for each."""
        self._next = ticket + 1
        event = self._waiting.pop(self._next, None)
        if event is not None:
            event.set()

    def fail(self, ticket: int) -> None:
        """This ticket never gets through, so no later one may."""
        self._failed = min(self._failed, ticket)
        for later in [one for one in self._waiting if one > self._failed]:
            self._waiting.pop(later).set()


async def work(
    batches: AsyncGenerator[Batch, None],
    processes: Sequence[Callable[[Batch, int], Awaitable[None]]],
    edges: Sequence[Edge] = (),
    stop: Stop | None = None,
) -> None:
    """Let each of `processes` (batch, ticket) work on batches at its own pace until there are no more.

    After an error that `stop` takes, no further batch is begun: what still comes is left unread, so that
    whoever sends it does not wait for room, and the other processes finish theirs.

    `edges` are those that they send to.
    """
    stop = stop or Stop()
    stopped = False
    async with aclosing(batches):
        if len(processes) == 1:
            pacer, ticket = Pacer(edges), 0
            async for batch in batches:
                if stopped:
                    continue
                try:
                    await processes[0](batch, ticket)
                except EngineError as error:
                    if not stop.take(error):
                        raise
                    stopped = True
                # its bytes are given back: it must not live on here while the next one is awaited
                del batch
                ticket += 1
                if pacer.due(perf_counter()):
                    await pacer.pause()
            return
        send, receive = anyio.create_memory_object_stream[tuple[Batch, int]](0)

        async def worker(process: Callable[[Batch, int], Awaitable[None]]) -> None:
            nonlocal stopped
            with receive.clone() as mine:
                async for batch, ticket in mine:
                    if stopped:
                        continue
                    try:
                        await process(batch, ticket)
                    except EngineError as error:
                        if not stop.take(error):
                            raise
                        stopped = True
                    del batch

        with receive:
            async with anyio.create_task_group() as group:
                for process in processes:
                    group.start_soon(worker, process)
                with send:
                    ticket = 0
                    async for batch in batches:
                        await send.send((batch, ticket))
                        del batch
                        ticket += 1
