"""The contract of sinks: acknowledged records have arrived, bad ones fail alone, replays are safe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Receipt, Sink
from engine.contract.keys import KeyRange
from engine.contract.types import Record
from engine.errors import BatchError, RecordError
from engine.execution.engine import Engine
from engine.state.records import RunStatus
from engine.testing import MemorySource, linear_plan
from tests.contract.component_cases import SINKS, SinkCase, context, marked
from tests.contract.outside_world import World
from tests.contract.traces import nothing_left

pytestmark = pytest.mark.parametrize("case", marked(SINKS), ids=str)


def batch_of(records: Sequence[Record], *, start: int = 0, replay: bool = False) -> Batch:
    batch = Batch(list(records), KeyRange("k/", start, start + len(records)))
    ack = SplitTracker("split", replay=replay).begin(len(records), None)
    batch.origins = [(ack, len(records))] if records else []
    return batch


def ids(records: Sequence[Record]) -> list[str]:
    return sorted(record["id"] for record in records)


async def test_a_batch_that_is_acknowledged_has_arrived(case: SinkCase, world: World) -> None:
    async with case.build(world) as sink:
        receipt = await sink.write(batch_of(case.given)) or Receipt()
        assert sorted(case.arrived(world)) == ids(case.given)
    assert receipt.confirmed
    assert sorted(case.arrived(world)) == ids(case.given)


async def test_its_input_is_unchanged(case: SinkCase, world: World) -> None:
    records = deepcopy(list(case.given))
    batch = batch_of(records)
    held, keys, origins = batch.records, batch.keys.to_list(), list(batch.origins)
    async with case.build(world) as sink:
        await sink.write(batch)
    assert batch.records is held
    assert batch.records == list(case.given)
    assert batch.keys.to_list() == keys
    assert list(batch.origins) == origins


async def test_an_empty_batch_brings_nothing(case: SinkCase, world: World) -> None:
    async with case.build(world) as sink:
        await sink.write(batch_of([]))
        await sink.write(batch_of(case.given[:2]))
    assert sorted(case.arrived(world)) == ids(case.given[:2])


@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_a_bad_record_fails_alone(case: SinkCase, world: World, place: str) -> None:
    at = {"first": 0, "middle": len(case.given) // 2, "last": len(case.given)}[place]
    records = [*case.given[:at], case.bad, *case.given[at:]]
    async with case.build(world) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(records))
    ((index, error),) = caught.value.failures.items()
    assert index == at
    assert isinstance(error, RecordError)
    assert error.kind != "RecordError", "the kind names what is wrong"
    assert sorted(case.arrived(world)) == ids(case.given)


async def test_a_batch_of_one_bad_record_reports_it(case: SinkCase, world: World) -> None:
    async with case.build(world) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of([case.bad]))
        await sink.write(batch_of(case.given[:1], start=1))
    assert list(caught.value.failures) == [0]
    assert sorted(case.arrived(world)) == ids(case.given[:1])


@pytest.mark.parametrize("run", ["run-1", "run-2"], ids=["a resumed run", "a later run"])
async def test_a_replay_keeps_the_promise_of_the_sink(case: SinkCase, world: World, run: str) -> None:
    async with case.build(world) as sink:
        await sink.write(batch_of(case.given))
    async with case.build(world, context(run)) as sink:
        await sink.write(batch_of(case.given[:50], replay=True))
        await sink.write(batch_of(case.given[50:], start=50, replay=True))
    known = case.idempotent or (case.knows_its_run and run == "run-1")
    times = 1 if known else 2
    assert Counter(case.arrived(world)) == dict.fromkeys(ids(case.given), times)


async def test_batches_side_by_side_all_arrive(case: SinkCase, world: World) -> None:
    async with case.build(world) as sink:
        async with anyio.create_task_group() as group:
            for start in range(0, len(case.given), 30):
                group.start_soon(sink.write, batch_of(case.given[start : start + 30], start=start))
    assert sorted(case.arrived(world)) == ids(case.given)


@pytest.mark.parametrize("steps", [0, 3, 20, 60])
async def test_it_may_be_cancelled_at_any_time_and_used_again(
    case: SinkCase, world: World, steps: int
) -> None:
    async def write(sink: Sink[Any]) -> None:
        await sink.write(batch_of(case.given[:60]))

    async with nothing_left():
        async with case.build(world) as sink:
            async with anyio.create_task_group() as group:
                group.start_soon(write, sink)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            await sink.write(batch_of(case.given[60:], start=60))
    assert set(ids(case.given[60:])) <= set(case.arrived(world))


async def test_what_was_cancelled_and_comes_again_as_a_replay_is_there(case: SinkCase, world: World) -> None:
    async with case.build(world) as sink, anyio.create_task_group() as group:
        group.start_soon(sink.write, batch_of(case.given))
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    async with case.build(world) as sink:
        await sink.write(batch_of(case.given, replay=True))
    arrived = Counter(case.arrived(world))
    assert set(arrived) == set(ids(case.given))
    if case.idempotent:
        assert set(arrived.values()) == {1}


async def test_a_run_into_it_completes_and_its_counts_add_up(case: SinkCase, world: World) -> None:
    pages = [list(case.given[:50]), [*case.given[50:], case.bad]]
    async with nothing_left():
        async with Engine() as engine:
            report = await engine.run(linear_plan(MemorySource(pages), case.build(world)), verify=True)
    assert report.verified, [check for check in report.checks if not check.passed]
    assert report.status is RunStatus.COMPLETED, report.error
    tally = report.tally
    assert tally.balanced
    assert (tally.written, tally.accepted, tally.dead) == (len(case.given), 0, 1)
    assert sorted(case.arrived(world)) == ids(case.given)
