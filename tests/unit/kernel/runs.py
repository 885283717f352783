"""Running small plans in tests."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from engine.config.model import NodeOptions, RetryOptions
from engine.contract.batch import Batch
from engine.contract.component import Transform
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.plan.model import Plan
from engine.state.records import RunRecord
from engine.state.store import StateStore

QUICK = NodeOptions(retry=RetryOptions(attempts=2, base=0.0, cap=0.0))


class Apply(Transform):  # type: ignore[type-arg]
    """A synchronous transform made of a function on batches."""

    def __init__(self, function: Callable[[Batch], Batch]) -> None:
        super().__init__(None)
        self.function = function
        self.calls = 0

    def apply(self, batch: Batch) -> Batch:
        self.calls += 1
        return self.function(batch)


class Wait(Apply):
    """The same, as a coroutine: it gets a segment of its own."""

    @property
    def waits(self) -> bool:
        return True

    async def apply(self, batch: Batch) -> Batch:  # type: ignore[override]
        self.calls += 1
        return self.function(batch)


def pages(count: int, size: int = 10, first: int = 0) -> list[list[int]]:
    """The numbers from `first` on, `count` of them, in pages."""
    numbers = list(range(first, first + count))
    return [numbers[start : start + size] for start in range(0, count, size)]


def record_of(run_id: str) -> RunRecord:
    """A run for stores that only need one to be there."""
    return RunRecord(run_id, "p", "g", "i", {}, {}, {}, "s", "2026-01-01T00:00:00Z")


class TimeLimit:
    """The time limit of runs: it passes when a test lets it, however fast the machine is."""

    SECONDS = 86_400.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._passed = anyio.Event()
        self._sleep = anyio.sleep
        monkeypatch.setattr(anyio, "sleep", self._wait)

    def let_pass(self) -> None:
        """End the runs whose time is limited now; later ones have a new limit."""
        self._passed.set()
        self._passed = anyio.Event()

    async def _wait(self, seconds: float) -> None:
        await (self._passed.wait() if seconds == self.SECONDS else self._sleep(seconds))


async def run(plan: Plan, store: StateStore | None = None, **options: object) -> RunReport:
    """Run a plan in an engine of its own; the figures have to add up, however it ends."""
    async with Engine(store=store, **options) as engine:  # type: ignore[arg-type]
        report = await engine.run(plan)
    assert report.tally.balanced
    return report
