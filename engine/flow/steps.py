"""Nodes at work: one step applies one component to batches and passes the rest to the next step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any

from engine.batch import Batch
from engine.clock import Clock
from engine.component import Sink, Transform
from engine.errors import (
    BatchError,
    ComponentError,
    EngineError,
    FatalError,
    NodeFailedError,
    RecordError,
    TransientError,
)
from engine.flow.delivery import Delivery, Outcome
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.settle import settle_derived, settle_written
from engine.stats import NodeStats

__all__ = ["BuryRecords", "Next", "Step", "build_step"]

Next = Callable[[Batch], Awaitable[None]]
BuryRecords = Callable[[NodeStats, Batch, Sequence[tuple[int, RecordError]], int], Awaitable[None]]


class Step:
    """A node in its segment.

    Args:
        onward: takes what this node has done; None when nothing is behind it.
    """

    def __init__(
        self,
        stats: NodeStats,
        policy: RetryPolicy,
        clock: Clock,
        bury: BuryRecords,
        health: NodeHealth,
        onward: Next | None,
    ) -> None:
        self.stats = stats
        self.health = health
        self.onward = onward
        self._bury_records = bury
        self.delivery = Delivery(
            call=self._call,
            emit=self._emit,
            bury=self._bury,
            policy=policy,
            health=self.health,
            stats=stats,
            clock=clock,
        )

    async def process(self, batch: Batch) -> None:
        """See a batch through this node and everything behind it in the segment."""
        stats = self.stats
        stats.records_in += len(batch)
        stats.batches += 1
        await self.delivery.deliver(batch)

    async def _call(self, batch: Batch) -> Outcome:
        started = perf_counter()
        try:
            return await self._work(batch)
        except (TransientError, RecordError, BatchError):
            raise
        except FatalError as error:
            raise NodeFailedError(self.stats.name, str(error)) from error
        except EngineError as error:
            if isinstance(error, ComponentError):
                raise NodeFailedError(self.stats.name, str(error)) from error
            raise
        except Exception as error:
            raise bug_in(self.stats.name, error) from error
        finally:
            self.stats.busy += perf_counter() - started

    async def _work(self, batch: Batch) -> Outcome:
        raise NotImplementedError

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        raise NotImplementedError

    async def _bury(self, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int) -> None:
        self.stats.dead += len(failures)
        await self._bury_records(self.stats, batch, failures, attempts)


class TransformStep(Step):
    """A transform; a synchronous one that succeeds costs no coroutine of its own."""

    def __init__(self, transform: Transform[Any], *args: Any) -> None:
        super().__init__(*args)
        self._transform = transform
        self._waits = transform.waits

    async def process(self, batch: Batch) -> None:
        if self._waits:
            await super().process(batch)
            return
        stats = self.stats
        stats.records_in += len(batch)
        stats.batches += 1
        started = perf_counter()
        try:
            derived = self._transform.apply(batch)
        except (TransientError, RecordError, BatchError):
            await self.delivery.deliver(batch)
            return
        except FatalError as error:
            raise NodeFailedError(stats.name, str(error)) from error
        except Exception as error:
            raise bug_in(stats.name, error) from error
        stats.busy += perf_counter() - started
        assert isinstance(derived, Batch)
        if derived.failures:
            await self.delivery.accept(batch, Outcome(derived, derived.failures))
            return
        if derived.origins is not batch.origins:
            stats.dropped += settle_derived(batch, derived, (), stats.name)
            derived.drops = None
        stats.records_out += len(derived)
        if self.onward is not None and derived.records:
            await self.onward(derived)

    async def _work(self, batch: Batch) -> Outcome:
        derived = self._transform.apply(batch)
        if not isinstance(derived, Batch):
            derived = await derived
        return Outcome(derived, derived.failures)

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        derived = outcome.derived
        if derived is None:
            return
        failed = [index for index, _ in outcome.failures]
        self.stats.dropped += settle_derived(batch, derived, failed, self.stats.name)
        # settled here: a transform behind this one may hand on the very same batch
        derived.failures, derived.drops = (), None
        self.stats.records_out += len(derived)
        if self.onward is not None and derived.records:
            await self.onward(derived)


class SinkStep(Step):
    """A sink; what it has acknowledged is settled, or goes on if something is behind it."""

    def __init__(self, sink: Sink[Any], *args: Any) -> None:
        super().__init__(*args)
        self._sink = sink

    async def _work(self, batch: Batch) -> Outcome:
        receipt = await self._sink.write(batch)
        return Outcome(batch, confirmed=receipt is None or receipt.confirmed)

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        self.stats.records_out += len(batch)
        if self.onward is None:
            settle_written(batch.origins, confirmed=outcome.confirmed)
        else:
            await self.onward(batch)


def build_step(component: object, *args: Any) -> Step:
    """The step for a transform or a sink."""
    if isinstance(component, Transform):
        return TransformStep(component, *args)
    if isinstance(component, Sink):
        return SinkStep(component, *args)
    raise TypeError(f"{component!r} is neither a transform nor a sink")


def bug_in(node: str, error: Exception) -> NodeFailedError:
    """An error no component should raise, with the line it came from; never with the record."""
    frames = inspect.trace()
    where = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    text = str(error).splitlines()[0][:300] if str(error) else ""
    return NodeFailedError(node, f"{type(error).__name__}: {text}{where}")
