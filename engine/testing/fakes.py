"""Fakes for tests: scripted sources, recording and failing sinks, a scripted clock.

They are ordinary components, so tests take the same path as production.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush

import anyio
import anyio.lowlevel

from engine.config.model import NodeOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import (
    BatchLimits,
    Component,
    ComponentSpec,
    Context,
    Kind,
    NoParams,
    Receipt,
    Sink,
    Source,
)
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record
from engine.errors import BatchError, RecordError, TransientError
from engine.plan.model import DeadLetterSettings, Plan, PlanNode


class MemorySource(Source[NoParams]):
    """Yields given pages, each split from its position; `positions` are page numbers.

    Args:
        pages: pages by split key; a plain list is one split called "all".
        fail: called with (split key, page number) before a page is yielded; may raise.
        nbytes: declared size of each page; 0 lets the engine estimate.
    """

    repeatable = True

    def __init__(
        self,
        pages: Mapping[str, Sequence[list[Record]]] | Sequence[list[Record]],
        *,
        fail: Callable[[str, int], None] | None = None,
        fresh: bool = True,
        nbytes: int = 0,
        parallel: int = 1,
    ) -> None:
        super().__init__(NoParams())
        self.pages = pages if isinstance(pages, Mapping) else {"all": pages}
        self._fail = fail
        self._fresh = fresh
        self._nbytes = nbytes
        self.parallel_splits = parallel

    @property
    def fresh_keys(self) -> bool:
        return self._fresh

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        first = 0
        for key, pages in self.pages.items():
            yield Split(key, {"pages": len(pages)}, first_ordinal=first)
            first += sum(map(len, pages))

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        pages = self.pages[split.key]
        ordinal = split.first_ordinal
        for number, page in enumerate(pages):
            start, ordinal = ordinal, ordinal + len(page)
            if number < int(position or 0):
                continue
            if self._fail is not None:
                self._fail(split.key, number)
            keys = KeyRange(f"{split.key}/", start, ordinal)
            yield Batch(list(page), keys, position=number + 1, nbytes=self._nbytes)


class MemorySink(Sink[NoParams]):
    """A sink that records what it receives.

    Args:
        stall: wait for this event before each write.
        workers: concurrent batches.
        limits: its batch limits.
    """

    def __init__(
        self,
        *,
        stall: anyio.Event | None = None,
        workers: int = 1,
        limits: BatchLimits | None = None,
        confirmed: bool = True,
    ) -> None:
        super().__init__(NoParams())
        self.records: list[Record] = []
        self.keys: list[str] = []
        self.batches: list[int] = []
        self.replays: list[bool] = []
        self._stall = stall
        self._workers = workers
        self._limits = limits or BatchLimits()
        self._confirmed = confirmed

    @property
    def concurrency(self) -> int:
        return self._workers

    @property
    def limits(self) -> BatchLimits:
        return self._limits

    async def write(self, batch: Batch) -> Receipt:
        if self._stall is not None:
            await self._stall.wait()
        self.records += batch.records
        self.keys += batch.keys.to_list()
        self.batches.append(len(batch))
        self.replays.append(batch.replay)
        return Receipt(confirmed=self._confirmed)


class FaultySink(MemorySink):
    """A memory sink with scripted failures.

    Args:
        script: the result of each call in turn: an exception to raise, or None to accept; calls after its end
            are accepted.
        poison: records for which this is true fail individually with `RecordError`, or `TransientError` when
            `poison_is_transient`.
    """

    def __init__(
        self,
        script: Sequence[Exception | None] = (),
        *,
        poison: Callable[[Record], bool] | None = None,
        poison_is_transient: bool = False,
        workers: int = 1,
        limits: BatchLimits | None = None,
    ) -> None:
        super().__init__(workers=workers, limits=limits)
        self._script = list(script)
        self._poison = poison
        self._transient = poison_is_transient
        self.calls = 0

    async def write(self, batch: Batch) -> Receipt:
        self.calls += 1
        fault = self._script.pop(0) if self._script else None
        if fault is not None:
            raise fault
        bad = [index for index, record in enumerate(batch.records) if self._poison and self._poison(record)]
        good = batch.take([index for index in range(len(batch)) if index not in set(bad)])
        if bad and self._transient:
            raise TransientError("the other side chokes on this batch")
        await super().write(good)
        if bad:
            raise BatchError({index: RecordError("poison", kind="Poison") for index in bad})
        return Receipt()


class ScriptedClock:
    """A clock that stands still until `advance` is called, or jumps.

    Args:
        jump: sleeping returns at once and advances the clock by that time.
    """

    def __init__(self, *, jump: bool = False) -> None:
        self._seconds = 0.0
        self._jump = jump
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self.slept: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self._jump:
            self._seconds += seconds
            await anyio.lowlevel.checkpoint()
            return
        event = anyio.Event()
        heappush(self._sleepers, (self._seconds + seconds, len(self.slept), event))
        await event.wait()

    def next_wake(self) -> float | None:
        """When the next sleeper wakes; None without one."""
        return self._sleepers[0][0] if self._sleepers else None

    def advance(self, seconds: float) -> None:
        """Advance the time and wake sleepers."""
        self._seconds += seconds
        while self._sleepers and self._sleepers[0][0] <= self._seconds:
            heappop(self._sleepers)[2].set()


def stand_in(component: Component, kind: Kind, name: str = "") -> ComponentSpec:  # type: ignore[type-arg]
    """Return a specification of this component instance."""
    return ComponentSpec(name or type(component).__name__, kind, lambda params, connection: component)


def plan_of(
    components: Mapping[str, tuple[Component, Sequence[str]]],  # type: ignore[type-arg]
    *,
    options: Mapping[str, NodeOptions] | None = None,
    settings: Settings | None = None,
    dead_letters: DeadLetterSettings | None = None,
    pipeline: str = "test",
) -> Plan:
    """Create a plan from component instances: name to (component, input names), upstream first."""
    nodes = []
    for name, (component, inputs) in components.items():
        kind = (
            Kind.SOURCE
            if isinstance(component, Source)
            else Kind.SINK
            if isinstance(component, Sink)
            else Kind.TRANSFORM
        )
        spec = stand_in(component, kind, name)
        node_options = (options or {}).get(name, NodeOptions())
        nodes.append(PlanNode(name, spec, NoParams(), None, tuple(inputs), node_options))
    return Plan(
        pipeline,
        tuple(nodes),
        identity="test",
        identity_doc={"nodes": list(components)},
        settings=settings or Settings(),
        dead_letters=dead_letters or DeadLetterSettings(),
    )


def linear_plan(*components: Component, **settings: object) -> Plan:  # type: ignore[type-arg]
    """Create a linear plan of components n0, n1, …; keywords as for `plan_of`."""
    chained = {
        f"n{index}": (component, [f"n{index - 1}"] if index else [])
        for index, component in enumerate(components)
    }
    return plan_of(chained, **settings)  # type: ignore[arg-type]
