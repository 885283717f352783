"""The workers of a segment behind an edge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from engine.contract.batch import Batch
from engine.contract.clock import Clock
from engine.errors import EngineError
from engine.flow.budget import ByteBudget
from engine.flow.chain import DeadLetterQueue, chain
from engine.flow.edge import Edge
from engine.flow.outlet import Outlet
from engine.flow.segment import Segment
from engine.flow.stopping import Stop
from engine.flow.workers import BatchReader, OutOfTurnError, Sequencer, work


async def run_workers(
    segment: Segment,
    *,
    edge: Edge,
    outlet: Outlet | None,
    concurrency: int,
    budget: ByteBudget,
    clock: Clock,
    dead_letters: DeadLetterQueue,
    stop: Stop | None = None,
    repeated_keys: bool = False,
) -> None:
    """Run a segment after an edge until its input ends.

    `repeated_keys`: a key may occur several times; its updates never overtake each other.
    """
    head = segment.head
    sequencer = Sequencer() if head.node.options.ordered and concurrency > 1 else None
    processes = [_worker(segment, outlet, sequencer, clock, dead_letters) for _ in range(concurrency)]
    intake = BatchReader(edge, head.limits, budget, head.stats)
    try:
        edges = outlet.edges if outlet is not None else ()
        await work(intake.batches(), processes, edges, stop, repeated_keys=repeated_keys)
    finally:
        if outlet is not None:
            outlet.close()


def _worker(
    segment: Segment,
    outlet: Outlet | None,
    sequencer: Sequencer | None,
    clock: Clock,
    dead_letters: DeadLetterQueue,
) -> Callable[[Batch, int], Awaitable[None]]:
    send = outlet.send if outlet is not None else None
    if sequencer is None:
        process = chain(segment.nodes, send, clock, dead_letters)
        assert process is not None

        def run(batch: Batch, ticket: int) -> Awaitable[None]:
            return process(batch)

        return run

    rest = chain(segment.nodes[1:], send, clock, dead_letters)
    current = 0

    async def in_turn(batch: Batch) -> None:
        await sequencer.wait(current)
        if rest is not None:
            await rest(batch)

    first = chain(segment.nodes[:1], in_turn if rest is not None else None, clock, dead_letters)
    assert first is not None

    async def run_ordered(batch: Batch, ticket: int) -> None:
        nonlocal current
        current = ticket
        try:
            await first(batch)
            await sequencer.wait(ticket)
        except OutOfTurnError:
            return  # it stays unsettled: a resume reads it after the failed one
        except EngineError:
            sequencer.fail(ticket)
            raise
        sequencer.leave(ticket)

    return run_ordered
