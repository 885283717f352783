"""The contract of transforms: they change copies, account for every record, and can be called again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Transform
from engine.contract.keys import KeyRange
from engine.contract.types import Record
from engine.errors import RecordError, TransientError
from engine.execution.engine import Engine
from engine.flow.settle import DropLabels, settle_derived, settle_written
from engine.state.records import RunStatus
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.contract.component_cases import TRANSFORMS, TransformCase, marked
from tests.contract.outside_world import World
from tests.contract.traces import nothing_left

every_case = pytest.mark.parametrize("case", marked(TRANSFORMS), ids=str)
with_a_bad_record = pytest.mark.parametrize(
    "case", [case for case in TRANSFORMS if case.bad is not None], ids=str
)


def batch_of(records: Sequence[Record], start: int = 0) -> Batch:
    batch = Batch(list(records), KeyRange("k/", start, start + len(records)), nbytes=1000 * len(records))
    batch.origins = [(SplitTracker("split").begin(len(records), None), len(records))]
    return batch


async def apply(transform: Transform[Any], batch: Batch) -> Batch:
    derived = transform.apply(batch)
    return await derived if inspect.isawaitable(derived) else derived


def shown(batch: Batch) -> list[tuple[str, str]]:
    return [
        (key, json.dumps(record, sort_keys=True))
        for key, record in zip(batch.keys.to_list(), batch.records, strict=True)
    ]


@every_case
async def test_its_input_is_unchanged(case: TransformCase, world: World) -> None:
    records = deepcopy([*case.given, *([case.bad] if case.bad is not None else [])])
    batch = batch_of(records)
    held, keys, origins = batch.records, batch.keys.to_list(), list(batch.origins)
    async with case.build(world) as transform:
        derived = await apply(transform, batch)
    assert records == [*case.given, *([case.bad] if case.bad is not None else [])]
    assert batch.records is held
    assert batch.records == records
    assert batch.keys.to_list() == keys
    assert list(batch.origins) == origins
    assert derived.records is not batch.records


@every_case
async def test_results_are_plain_under_the_keys_of_what_they_were_made_of(
    case: TransformCase, world: World
) -> None:
    batch = batch_of(case.given)
    async with case.build(world) as transform:
        derived = await apply(transform, batch)
    parents = batch.keys.to_list()
    keys = derived.keys.to_list()
    assert len(keys) == len(derived.records) > 0
    assert len(set(keys)) == len(keys)
    assert {key if key in parents else key.rpartition("/")[0] for key in keys} <= set(parents)
    json.dumps(derived.records)


@every_case
async def test_the_same_records_give_the_same_results(case: TransformCase, world: World) -> None:
    async with case.build(world) as transform:
        first = await apply(transform, batch_of(case.given))
        second = await apply(transform, batch_of(case.given))
    async with case.build(world) as transform:
        third = await apply(transform, batch_of(case.given))
    assert shown(first) == shown(second) == shown(third)


@every_case
async def test_it_does_not_matter_how_the_records_are_cut_into_batches(
    case: TransformCase, world: World
) -> None:
    cut = len(case.given) // 3
    async with case.build(world) as transform:
        whole = await apply(transform, batch_of(case.given))
        parts = [
            await apply(transform, batch_of(case.given[:cut])),
            await apply(transform, batch_of(case.given[cut:], cut)),
        ]
    assert [pair for part in parts for pair in shown(part)] == shown(whole)


@every_case
async def test_an_empty_batch_is_an_empty_batch(case: TransformCase, world: World) -> None:
    async with case.build(world) as transform:
        derived = await apply(transform, Batch([], []))
    assert len(derived) == 0
    assert list(derived.failures) == []
    assert not derived.drops


@every_case
async def test_every_record_is_settled_once(case: TransformCase, world: World) -> None:
    batch = batch_of(case.given)
    ((ack, _),) = batch.origins
    async with case.build(world) as transform:
        derived = await apply(transform, batch)
    failed = [index for index, _ in derived.failures]
    dropped = settle_derived(batch, derived, failed, DropLabels("n"))
    for index in failed:
        settle_written(batch.slice(index, index + 1).origins, confirmed=True)
    settle_written(derived.origins, confirmed=True)
    assert ack.complete
    assert ack.tally.balanced
    assert dropped == sum((derived.drops or {}).values()) == case.settled[1]


@with_a_bad_record
async def test_a_bad_record_fails_alone(case: TransformCase, world: World) -> None:
    place = len(case.given) // 2
    records = [*case.given[:place], case.bad, *case.given[place:]]
    async with case.build(world) as transform:
        derived = await apply(transform, batch_of(records))
        good = await apply(transform, batch_of(case.given))
    ((index, error),) = derived.failures
    assert index == place
    assert isinstance(error, RecordError)
    assert error.kind != "RecordError", "the kind names what is wrong"
    assert len(derived) == len(good)
    assert f"k/{place}" not in derived.keys.to_list()


@every_case
@pytest.mark.parametrize("steps", [0, 3, 20])
async def test_it_may_be_cancelled_at_any_time(case: TransformCase, world: World, steps: int) -> None:
    async with nothing_left():
        async with case.build(world) as transform:
            async with anyio.create_task_group() as group:
                group.start_soon(apply, transform, batch_of(case.given))
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            again = await apply(transform, batch_of(case.given))
    assert not any(isinstance(error, TransientError) for _, error in again.failures)
    assert len(again) == case.settled[0]


@every_case
async def test_a_run_through_it_completes_and_its_counts_add_up(case: TransformCase, world: World) -> None:
    records = [*case.given, *([case.bad] if case.bad is not None else [])]
    half = len(records) // 2
    source, sink = MemorySource([records[:half], records[half:]]), MemorySink()
    async with nothing_left():
        async with Engine() as engine:
            report = await engine.run(linear_plan(source, case.build(world), sink))
    assert report.status is RunStatus.COMPLETED, report.error
    tally = report.tally
    assert tally.balanced
    written, dropped, dead = case.settled
    assert (tally.written, tally.dropped) == (written, dropped)
    assert tally.dead == dead + (case.bad is not None)
    assert len(set(sink.keys)) == len(sink.keys)
