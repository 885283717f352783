"""A segment after an edge: resize batches and process them with several workers."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
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


class BatchReader:
    """Reads an edge and yields batches within the node's limits.

    Records held to fill a batch are emitted after `limits.linger` seconds, at the end of the stream, and at
    once whenever a source waits for memory, which a partial batch must not block.
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
        """Yield the batches in order."""
        # no variable may keep a batch alive after a `yield`, since its bytes are released when it is done
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
                    # the records held now came with this batch
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
        """Return the next batch, or None when it is time to emit held records."""
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
    """An earlier batch has failed; later ones may not overtake it."""


class Sequencer:
    """Lets workers pass in the order of their tickets, up to the first that failed."""

    def __init__(self) -> None:
        self._next = 0
        self._failed = inf
        self._waiting: dict[int, anyio.Event] = {}

    async def wait(self, ticket: int) -> None:
        """Wait until every earlier ticket is done.

        Raises:
            OutOfTurnError: one of them failed.
        """
        if ticket != self._next and ticket <= self._failed:
            await self._waiting.setdefault(ticket, anyio.Event()).wait()
        if ticket > self._failed:
            raise OutOfTurnError

    def leave(self, ticket: int) -> None:
        """Mark this ticket as done; call exactly once per ticket."""
        self._next = ticket + 1
        event = self._waiting.pop(self._next, None)
        if event is not None:
            event.set()

    def fail(self, ticket: int) -> None:
        """Mark this ticket as failed, so that no later one passes."""
        self._failed = min(self._failed, ticket)
        for later in [one for one in self._waiting if one > self._failed]:
            self._waiting.pop(later).set()


class KeyGate:
    """Serialises batches that share a key: the later one waits until the earlier one is done."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._freed = anyio.Event()

    async def enter(self, keys: Collection[str]) -> None:
        """Wait until no batch inside has any of these keys. Called by one task, in batch order."""
        while not self._held.isdisjoint(keys):
            self._freed = anyio.Event()
            await self._freed.wait()
        self._held.update(keys)

    def leave(self, keys: Collection[str]) -> None:
        """Mark the batch with these keys as done."""
        self._held.difference_update(keys)
        self._freed.set()


async def work(
    batches: AsyncGenerator[Batch, None],
    processes: Sequence[Callable[[Batch, int], Awaitable[None]]],
    edges: Sequence[Edge] = (),
    stop: Stop | None = None,
    *,
    repeated_keys: bool = False,
) -> None:
    """Run each of `processes` (batch, ticket) on batches until there are none left.

    After an error that `stop` takes, no further batch is begun: later batches are discarded unread, so that
    senders do not wait for room, and the other processes finish theirs.

    Args:
        edges: the edges that they send to.
        repeated_keys: a key may occur twice, and its batches must not overtake each other.
    """
    stop = stop or Stop()
    async with aclosing(batches):
        if len(processes) == 1:
            await _one_by_one(batches, processes[0], edges, stop)
        else:
            await _side_by_side(batches, processes, stop, repeated_keys=repeated_keys)


async def _one_by_one(
    batches: AsyncGenerator[Batch, None],
    process: Callable[[Batch, int], Awaitable[None]],
    edges: Sequence[Edge],
    stop: Stop,
) -> None:
    pacer, ticket, stopped = Pacer(edges), 0, False
    async for batch in batches:
        if stopped:
            continue
        try:
            await process(batch, ticket)
        except EngineError as error:
            if not stop.take(error):
                raise
            stopped = True
        # its bytes are released, so do not keep it alive while waiting for the next one
        del batch
        ticket += 1
        if pacer.due(perf_counter()):
            await pacer.pause()


async def _side_by_side(
    batches: AsyncGenerator[Batch, None],
    processes: Sequence[Callable[[Batch, int], Awaitable[None]]],
    stop: Stop,
    *,
    repeated_keys: bool,
) -> None:
    send, receive = anyio.create_memory_object_stream[tuple[Batch, int, Collection[str]]](0)
    gate, stopped = KeyGate(), False

    async def worker(process: Callable[[Batch, int], Awaitable[None]]) -> None:
        nonlocal stopped
        with receive.clone() as mine:
            async for batch, ticket, keys in mine:
                try:
                    if not stopped:
                        await process(batch, ticket)
                except EngineError as error:
                    if not stop.take(error):
                        raise
                    stopped = True
                del batch
                gate.leave(keys)

    with receive:
        async with anyio.create_task_group() as group:
            for process in processes:
                group.start_soon(worker, process)
            with send:
                ticket = 0
                async for batch in batches:
                    keys = frozenset(batch.keys.to_list()) if repeated_keys else frozenset()
                    await gate.enter(keys)
                    await send.send((batch, ticket, keys))
                    del batch
                    ticket += 1
