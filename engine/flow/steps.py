"""Steps: each applies one component to batches and passes the result to the next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any

from engine.config.model import OnError
from engine.contract.batch import Batch
from engine.contract.callables import misuse, type_shown
from engine.contract.clock import Clock
from engine.contract.component import Component, Receipt, Sink, Transform
from engine.contract.records import Makers, first_non_records
from engine.contract.unplanned import escaped
from engine.errors import AT_RECORD, FatalError, NodeFailedError, RecordError
from engine.fault_injection import reached
from engine.flow.delivery import Delivery, Failure, Outcome
from engine.flow.errors import classify_error
from engine.flow.open_dead_letters import OpenDeadLetters
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.settle import DropLabels, settle_derived, settle_dropped, settle_written
from engine.flow.stats import NodeStats
from engine.flow.tapping import Seen, watched_output, watched_write
from engine.flow.tracing import traced

Next = Callable[[Batch], Awaitable[None]]
PutDeadLetters = Callable[[NodeStats, Batch, Sequence[tuple[int, RecordError]], int], Awaitable[None]]


class Step:
    """A node in its segment.

    The first attempt at a batch is implemented twice. `process` takes the shortest path: no `Outcome`, no
    closure, and for a synchronous transform no coroutine, because nearly every batch succeeds at once and
    would pay for these. Failures go to `delivery`, which retries with `_work` and `_emit`: the same work in
    the form that halving, waiting and partial failures need. Change both together.

    Args:
        onward: receives this node's output; None when nothing follows.
    """

    derives = False

    def __init__(
        self,
        component: Component[Any],
        stats: NodeStats,
        policy: RetryPolicy,
        clock: Clock,
        dead_letter: PutDeadLetters,
        health: NodeHealth,
        onward: Next | None,
    ) -> None:
        self.stats = stats
        self.health = health
        self.onward = onward
        self._put_dead_letters = dead_letter
        self._on_error = policy.on_error
        self.makers: Makers = ()
        self._survives = policy.survives_errors
        self._labels = DropLabels(stats.name)
        self.delivery = Delivery(
            call=self._call,
            emit=self._emit,
            dead_letter=self._dead_letter,
            policy=policy,
            health=self.health,
            stats=stats,
            clock=clock,
            is_answering=component.is_answering,
            derives=self.derives,
        )

    async def process(self, batch: Batch) -> None:
        """Process a batch at this node and all later ones of the segment."""
        raise NotImplementedError

    async def _call(self, batch: Batch) -> Outcome:
        self.stats.begin_call(perf_counter())
        try:
            return await self._work(batch)
        except BaseException as error:
            failure = self._classified(error, batch)
            if failure is error:
                raise
            raise failure from error
        finally:
            self.stats.end_call(perf_counter())

    async def _work(self, batch: Batch) -> Outcome:
        raise NotImplementedError

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        raise NotImplementedError

    async def _dead_letter(
        self, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        if self._on_error is not None and any(error.unplanned for _, error in failures):
            failures = self._settle_unplanned(batch, failures)
        if failures:
            self.stats.dead += len(failures)
            await self._put_dead_letters(self.stats, batch, failures, attempts)

    async def _reject(self, batch: Batch, error: BaseException) -> None:
        """End the first attempt at a batch, which failed."""
        self.stats.end_call(perf_counter())
        await self.delivery.reject(batch, self._classified(error, batch))

    def _classified(self, error: BaseException, batch: Batch) -> Failure:
        failed = escaped(error)
        return classify_error(self.stats.name, failed, batch, survives=self._survives, makers=self.makers)

    def _settle_unplanned(
        self, batch: Batch, failures: Sequence[tuple[int, RecordError]]
    ) -> Sequence[tuple[int, RecordError]]:
        """Drop records that failed unplanned, or stop the run, according to `on_error`; return the others."""
        if self._on_error is OnError.DEAD_LETTER:
            return failures
        for index, error in failures:
            if not error.unplanned:
                continue
            if self._on_error is OnError.STOP:
                place = batch.keys.place(index)
                raise NodeFailedError(self.stats.name, f"{error}, {AT_RECORD}{place}") from error
            self.stats.dropped += 1
            settle_dropped(batch.slice(index, index + 1).origins, self._labels[f"error {error.kind}"])
        return [(index, error) for index, error in failures if not error.unplanned]


class TransformStep(Step):
    """A transform; successful synchronous ones run without their own coroutine.

    Attributes:
        following: the step that `onward` calls, if it is a transform too: without failures, one call of
            `process` passes a batch through all of them.
    """

    derives = True

    def __init__(self, transform: Transform[Any], *args: Any) -> None:
        super().__init__(transform, *args)
        self.following: TransformStep | None = None
        self._component = transform
        self._apply = self._unwatched = traced(transform.apply, self.stats.trace)
        self._waits = transform.waits
        self.stats.taps.add_place(self)

    def watch(self, seen: Seen | None) -> None:
        """See `Watchable`."""
        self._apply = self._unwatched if seen is None else watched_output(self._unwatched, seen)

    async def process(self, batch: Batch) -> None:
        step, now = self, perf_counter()
        while True:
            stats = step.stats
            stats.records_in += len(batch.records)
            stats.batches += 1
            stats.begin_call(now)
            try:
                made = step._apply(batch)
                derived = step._checked(
                    batch, await made if step._waits and not isinstance(made, Batch) else made
                )
            except BaseException as error:  # noqa: BLE001 - a component's own code ends here; `escaped` decides
                await step._reject(batch, error)
                return
            now = perf_counter()
            stats.end_call(now)
            if derived.failures or derived.dead_items is not None:
                await step.delivery.accept(batch, Outcome(derived, derived.failures))
                return
            step.health.successes += 1
            step.health.failing_since = None
            if derived.origins is not batch.origins:
                stats.dropped += settle_derived(batch, derived, (), step._labels)
                derived.dropped = ()
            stats.records_out += len(derived.records)
            if not derived.records:
                return
            batch = derived
            if step.following is None:
                break
            step = step.following
        del derived, made  # only `batch` may keep records alive while later nodes process them
        if step.onward is not None:
            await step.onward(batch)

    async def _work(self, batch: Batch) -> Outcome:
        made = self._apply(batch)
        derived = self._checked(batch, await made if self._waits and not isinstance(made, Batch) else made)
        return Outcome(derived, derived.failures)

    def _checked(self, given: Batch, derived: object) -> Batch:
        """Return the transform's result, if every record in it can be accounted for."""
        if not isinstance(derived, Batch):
            if isinstance(derived, Coroutine):
                derived.close()
            raise self._misuse(f"returned {type_shown(derived)}, not a batch")
        origins = derived.origins
        if origins is given.origins:
            accounted = len(given.records)
        elif len(origins) == 1:
            accounted = origins[0][1]
        else:
            accounted = sum([count for _, count in origins])
        if accounted != len(derived.records):
            raise self._misuse("returned a batch that it has not derived from the given one")
        if derived.failures:
            self._check_failures(given, derived)
        if wrong := first_non_records(derived.records, self._component.apply):
            raise wrong[0][1]
        return derived

    def _check_failures(self, given: Batch, derived: Batch) -> None:
        failures = sorted(derived.failures, key=lambda failure: failure[0])
        indices = [index for index, _ in failures]
        if len(set(indices)) != len(indices) or not 0 <= indices[0] <= indices[-1] < len(given.records):
            raise self._misuse("named a failed record twice, or one that it was not given")
        derived.failures = failures

    def _misuse(self, what: str) -> FatalError:
        return misuse(
            self._component.apply,
            "transform",
            f"{what}: return what `batch.replace`, `select` or `outcomes` gives",
        )

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        assert outcome.derived is not None
        await self._hand_on(batch, outcome.derived, [index for index, _ in outcome.failures])

    async def _hand_on(self, given: Batch, derived: Batch, failed: Sequence[int]) -> None:
        stats, dead = self.stats, derived.dead_items
        if derived.origins is not given.origins or failed:
            stats.dropped += settle_derived(given, derived, failed, self._labels)
            # they are settled, so the next node must not see them on its batch
            derived.failures, derived.dropped, derived.dead_items = (), (), None
        stats.records_out += len(derived.records)
        if self.onward is not None and derived.records:
            await self.onward(derived)
        if dead is not None:
            errors = [(place, error) for place, error in dead.failures if isinstance(error, RecordError)]
            await self._dead_letter(dead, errors, 1)


class SinkStep(Step):
    """A sink; acknowledged records are settled, or passed on to a downstream node."""

    def __init__(self, sink: Sink[Any], *args: Any) -> None:
        super().__init__(sink, *args)
        self._component = sink
        self._lease = sink.ctx.lease
        self._write = self._unwatched = traced(sink.write, self.stats.trace)
        self.open_dead_letters: OpenDeadLetters | None = None
        self.stats.taps.add_place(self)

    def watch(self, seen: Seen | None) -> None:
        """See `Watchable`."""
        self._write = self._unwatched if seen is None else watched_write(self._unwatched, seen)

    async def process(self, batch: Batch) -> None:
        stats = self.stats
        stats.records_in += len(batch.records)
        stats.batches += 1
        stats.begin_call(perf_counter())
        try:
            confirmed = await self._confirmed(batch)
        except BaseException as error:  # noqa: BLE001 - a component's own code ends here; `escaped` decides
            await self._reject(batch, error)
            return
        stats.end_call(perf_counter())
        self.health.successes += 1
        self.health.failing_since = None
        self._take(batch, confirmed=confirmed)
        if self.onward is not None:
            await self.onward(batch)

    async def _work(self, batch: Batch) -> Outcome:
        return Outcome(batch, confirmed=await self._confirmed(batch))

    async def _confirmed(self, batch: Batch) -> bool:
        """Write a batch, and return whether the sink knows that its records arrived."""
        if self._lease.is_expired():
            await self._lease.confirm()
        made: object = self._write(batch)
        if not isinstance(made, Awaitable):
            raise self._misuse(f"returned {type_shown(made)}, which cannot be awaited: make it `async def`")
        receipt = await made
        if receipt is None:
            return True
        if not isinstance(receipt, Receipt):
            raise self._misuse(f"returned {type_shown(receipt)}: return None or an `engine.Receipt`")
        return receipt.confirmed

    def _misuse(self, what: str) -> FatalError:
        return misuse(self._component.write, "sink", what)

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        self._take(batch, confirmed=outcome.confirmed)
        if self.onward is not None:
            await self.onward(batch)

    def _take(self, batch: Batch, *, confirmed: bool) -> None:
        reached("batch_written")
        self.stats.records_out += len(batch.records)
        for ack, count in batch.origins:
            ack.delivered(count, self.stats.name)
        if self.open_dead_letters is not None:
            self.open_dead_letters.deliver(batch)
        if self.onward is None:
            settle_written(batch.origins, confirmed=confirmed)


def build_step(component: object, *args: Any) -> Step:
    """Create the step of a transform or sink."""
    if isinstance(component, Transform):
        return TransformStep(component, *args)
    if isinstance(component, Sink):
        return SinkStep(component, *args)
    raise TypeError(f"{component!r} is neither a transform nor a sink")
