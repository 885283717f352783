"""Bytes in flight stay within the budget, for any source and slow sinks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from weakref import WeakSet

import anyio
import pytest

from engine.config.model import NodeOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, Context, NoParams, Source
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record
from engine.execution.engine import Engine
from engine.testing import MemorySink, plan_of
from tests.unit.kernel.runs import Wait

SIZE = 1_000_000
BUDGET = 6 * SIZE
ROOT = Path(__file__).parents[3]


class Large(dict[str, object]):
    """A record that can be counted while it is alive."""

    __slots__ = ("__weakref__",)

    __hash__ = object.__hash__  # type: ignore[assignment]


class Endless(Source[NoParams]):
    """Endless 1 MB records, one by one; `alive` are those still held."""

    repeatable = True

    def __init__(self, count: int = 10_000) -> None:
        super().__init__(NoParams())
        self.alive: WeakSet[Large] = WeakSet()
        self.most = 0
        self.count = count

    def make(self, number: int) -> Large:
        record = Large(n=number, body=bytes([number % 256]) * SIZE)
        self.alive.add(record)
        self.most = max(self.most, len(self.alive))
        return record

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        for number in range(self.count):
            yield self.make(number)


class EndlessBatches(Endless):
    """The same, in batches that the source makes itself."""

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        for number in range(self.count):
            yield Batch([self.make(number)], [str(number)], position=number + 1)


class Forgetful(MemorySink):
    """Counts, and keeps nothing."""

    count = 0

    async def write(self, batch: Batch) -> None:  # type: ignore[override]
        if self._stall is not None:
            await self._stall.wait()
        self.count += len(batch)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Endless, EndlessBatches])
async def test_a_stalled_sink_stalls_its_source_within_the_budget(kind: type[Endless]) -> None:
    source, sink = kind(), Forgetful(stall=anyio.Event())
    plan = plan_of(
        {"source": (source, []), "work": (Wait(lambda batch: batch), ["source"]), "sink": (sink, ["work"])},
        settings=Settings(memory_bytes=BUDGET),
        options={name: NodeOptions(buffer=50) for name in ("work", "sink")},
    )
    async with Engine() as engine:
        async with engine.start(plan) as run:

            async def watch() -> None:
                while run.snapshot().waits_for != "memory, held by sink":  # noqa: ASYNC110 - nothing announces it
                    await anyio.sleep(0.001)
                for _ in range(100):
                    await anyio.lowlevel.checkpoint()
                run.cancel()

            with anyio.fail_after(300):
                async with anyio.create_task_group() as group:
                    group.start_soon(watch)
                    report = await run.wait()

    assert BUDGET - SIZE <= report.peak_bytes <= BUDGET + 1.1 * SIZE
    assert source.most <= BUDGET // SIZE + 2


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Endless, EndlessBatches])
async def test_a_packer_that_needs_more_than_the_budget_continues(kind: type[Endless]) -> None:
    source = kind(40)
    sink = Forgetful(limits=BatchLimits(records=1000, linger=3600))
    plan = plan_of(
        {"source": (source, []), "sink": (sink, ["source"])}, settings=Settings(memory_bytes=BUDGET)
    )

    async with Engine() as engine:
        with anyio.fail_after(300):
            report = await engine.run(plan)

    assert report.ok
    assert sink.count == 40
    assert source.most <= BUDGET // SIZE + 2


@pytest.mark.anyio
async def test_two_pipelines_with_little_memory_between_them_both_end() -> None:
    sinks = [Forgetful(limits=BatchLimits(records=1000, linger=3600)) for _ in range(2)]
    async with Engine(memory=2 * SIZE) as engine:

        async def one(sink: Forgetful) -> None:
            report = await engine.run(plan_of({"source": (Endless(30), []), "sink": (sink, ["source"])}))
            assert report.ok

        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                for sink in sinks:
                    group.start_soon(one, sink)

    assert [sink.count for sink in sinks] == [30, 30]


@pytest.mark.parametrize("memory", [0, -1])
def test_an_engine_without_memory_is_refused(memory: int) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        Engine(memory=memory)


@pytest.mark.anyio
async def test_what_transforms_add_is_charged() -> None:
    swell = Wait(lambda batch: batch.replace([{"body": "x" * 20_000} for _ in batch.records]))
    small = Endless(200)
    small.make = lambda number: Large(n=number)  # type: ignore[method-assign]
    plan = plan_of({"source": (small, []), "swell": (swell, ["source"]), "sink": (Forgetful(), ["swell"])})

    async with Engine() as engine:
        report = await engine.run(plan)

    assert report.peak_bytes > 1_000_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("style", ["extract", "read"])
def test_a_real_process_stays_under_its_budget_and_twenty_megabytes(style: str) -> None:
    budget = 48 << 20
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.kernel.stalling_child", style, str(budget)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    grown, peak = map(int, done.stdout.split())

    assert grown <= budget + (20 << 20)
    assert peak <= budget + (2 << 20)
