"""The contract of sources: splits, keys, positions, resuming, stopping and reserved bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import BaseModel

from engine.contract.batch import Batch
from engine.contract.component import Context, Source
from engine.contract.split import Split
from engine.errors import RecordError
from engine.execution.engine import Engine
from engine.flow.budget import ByteBudget
from engine.state.records import RunStatus
from engine.testing import MemorySink, linear_plan
from tests.contract.component_cases import SOURCES, SourceCase, context, marked
from tests.contract.outside_world import World
from tests.contract.traces import nothing_left

pytestmark = pytest.mark.parametrize("case", marked(SOURCES), ids=str)


async def splits_of(source: Source[Any], ctx: Context) -> list[Split]:
    async with aclosing(source.splits(ctx)) as splits:  # type: ignore[type-var]
        return [split async for split in splits]


async def read(source: Source[Any], split: Split, position: object, ctx: Context) -> list[Batch]:
    async with aclosing(source.read(split, position, ctx)) as batches:
        found = [batch async for batch in batches]
    for batch in found:
        if batch.reservation is not None:
            batch.reservation.release()
    return found


async def read_all(source: Source[Any], ctx: Context) -> list[Batch]:
    return [batch for split in await splits_of(source, ctx) for batch in await read(source, split, None, ctx)]


def pairs(batches: list[Batch]) -> list[tuple[str, object]]:
    return [
        pair
        for batch in batches
        for pair in zip(batch.keys.to_list(), batch.records, strict=True)
    ]  # fmt: skip


def skip_if_once(case: SourceCase) -> None:
    """Skip a case whose input can be read only once."""
    if case.once:
        pytest.skip("its input can be read only once")


def through_json(value: Any) -> Any:
    again = json.loads(json.dumps(value))
    assert again == value
    return again


async def test_splits_have_stable_keys_and_manifests_that_json_can_say(
    case: SourceCase, world: World
) -> None:
    ctx = context()
    async with case.build(world, ctx) as source:
        splits = await splits_of(source, ctx)
        again = await splits_of(source, ctx)
    keys = [split.key for split in splits]
    assert splits
    assert all(isinstance(key, str) and key for key in keys)
    assert len(set(keys)) == len(keys)
    for split in splits:
        through_json(dict(split.manifest))
    assert [(one.key, one.manifest, one.first_ordinal) for one in again] == [
        (one.key, one.manifest, one.first_ordinal) for one in splits
    ]


async def test_every_record_has_one_key_and_every_batch_a_position(case: SourceCase, world: World) -> None:
    ctx = context()
    async with case.build(world, ctx) as source:
        batches = await read_all(source, ctx)
    assert len(batches) >= case.batches
    keys = [key for key, _ in pairs(batches)]
    assert len(keys) == case.records
    if source.distinct_keys:
        assert len(set(keys)) == len(keys)
    for batch in batches:
        assert batch.position is not None
        through_json(batch.position)
        json.dumps(batch.records)  # what a transform gets is plain
    assert sum(len(batch.failures) for batch in batches) == case.dead
    for batch in batches:
        assert all(0 <= index < len(batch) for index, _ in batch.failures)
        assert all(isinstance(error, RecordError) for _, error in batch.failures)


async def test_ordinals_count_the_records_of_a_split_upwards(case: SourceCase, world: World) -> None:
    ctx = context()
    async with case.build(world, ctx) as source:
        for split in await splits_of(source, ctx):
            ordinals = [
                ordinal for batch in await read(source, split, None, ctx) for ordinal in batch.keys.ordinals()
            ]
            assert ordinals == sorted(set(ordinals))


async def test_stored_manifest_gives_another_instance_the_same_records(
    case: SourceCase, world: World
) -> None:
    skip_if_once(case)
    first_ctx, later = context(), context()
    async with case.build(world, first_ctx) as source:
        repeatable = source.repeatable
        splits = await splits_of(source, first_ctx)
        first = [await read(source, split, None, first_ctx) for split in splits]
    assert repeatable, "a source that is not repeatable needs a contract of its own"
    stored = [Split(one.key, through_json(dict(one.manifest)), one.first_ordinal) for one in splits]
    async with case.build(world, later) as source:
        for split, batches in zip(reversed(stored), reversed(first), strict=True):
            again = await read(source, split, None, later)
            assert pairs(again) == pairs(batches)
            assert [batch.position for batch in again] == [batch.position for batch in batches]


async def test_reading_continues_after_every_position(case: SourceCase, world: World) -> None:
    skip_if_once(case)
    ctx = context()
    async with case.build(world, ctx) as source:
        for split in await splits_of(source, ctx):
            batches = await read(source, split, None, ctx)
            for number, batch in enumerate(batches):
                rest = await read(source, split, through_json(batch.position), ctx)
                assert pairs(rest) == pairs(batches[number + 1 :])


async def test_stopping_in_the_middle_leaves_nothing_and_keeps_no_bytes(
    case: SourceCase, world: World
) -> None:
    budget = ByteBudget(1 << 30)
    ctx = context(memory_budget=budget)
    async with nothing_left():
        async with case.build(world, ctx) as source:
            split, *_ = await splits_of(source, ctx)
            async with aclosing(source.read(split, None, ctx)) as batches:
                batch = await anext(batches)
            if batch.reservation is not None:
                batch.reservation.release()
            assert budget.in_use == 0


async def test_listing_may_be_stopped_in_the_middle(case: SourceCase, world: World) -> None:
    ctx = context()
    async with nothing_left(), case.build(world, ctx) as source:
        async with aclosing(source.splits(ctx)) as splits:  # type: ignore[type-var]
            await anext(splits)


async def test_bytes_are_reserved_until_the_consumer_releases_them(case: SourceCase, world: World) -> None:
    budget = ByteBudget(1 << 30)
    ctx = context(memory_budget=budget)
    async with case.build(world, ctx) as source:
        for split in await splits_of(source, ctx):
            async with aclosing(source.read(split, None, ctx)) as batches:
                async for batch in batches:
                    assert (batch.reservation is not None) is source.reserves
                    if batch.reservation is not None:
                        assert budget.in_use >= batch.nbytes > 0
                        batch.reservation.release()
        assert budget.in_use == 0
        assert (budget.peak > 0) is source.reserves


async def test_a_budget_that_fits_one_read_at_a_time_is_enough(case: SourceCase, world: World) -> None:
    ctx = context(memory_budget=ByteBudget(1))
    async with case.build(world, ctx) as source:
        count = 0
        for split in await splits_of(source, ctx):
            async with aclosing(source.read(split, None, ctx)) as batches:
                async for batch in batches:
                    count += len(batch)
                    if batch.reservation is not None:
                        batch.reservation.release()
    assert count == case.records


async def test_draining_ends_at_a_batch_after_which_a_resume_continues(
    case: SourceCase, world: World
) -> None:
    skip_if_once(case)
    drained = False
    draining, calm = context(draining=lambda: drained), context()
    async with nothing_left(), case.build(world, draining) as source:
        split, *_ = await splits_of(source, draining)
        whole = await read(source, split, None, calm)
        taken: list[Batch] = []
        async with aclosing(source.read(split, None, draining)) as batches:
            async for batch in batches:
                taken.append(batch)
                drained = True
        for batch in taken:
            if batch.reservation is not None:
                batch.reservation.release()
        assert len(taken) == 1
        rest = await read(source, split, taken[-1].position, calm)
    assert pairs(taken) + pairs(rest) == pairs(whole)


def plain(record: object) -> str:
    document = record.model_dump(mode="json") if isinstance(record, BaseModel) else record
    return json.dumps(document, sort_keys=True)


async def flat(output: AsyncGenerator[Any, None]) -> AsyncGenerator[object, None]:
    async with aclosing(output) as given:
        async for one in given:
            for record in one if isinstance(one, list) else [one]:
                yield record


async def test_extract_gives_the_same_records_without_a_pipeline(case: SourceCase, world: World) -> None:
    ctx, found = context(), list[str]()
    async with nothing_left():
        async with case.build(world, ctx) as source:
            expected = [plain(record) for _, record in pairs(await read_all(source, ctx))]
        async with case.build(world) as source, aclosing(flat(source.extract())) as records:
            try:
                async for record in records:
                    found.append(plain(record))
            except RecordError:
                assert case.dead, "nothing was to fail here"
            else:
                assert not case.dead, "a record that cannot be read has to be raised"
    if case.dead:
        assert set(found) < set(expected)
    else:
        assert sorted(found) == sorted(expected)


async def test_extract_may_be_left_after_the_first_record(case: SourceCase, world: World) -> None:
    async with nothing_left(), case.build(world) as source, aclosing(flat(source.extract())) as records:
        await anext(records)


async def test_a_run_of_it_completes_and_its_counts_add_up(case: SourceCase, world: World) -> None:
    sink = MemorySink()
    async with nothing_left():
        async with Engine() as engine:
            report = await engine.run(linear_plan(case.build(world), sink))
    assert report.status is RunStatus.COMPLETED, report.error
    tally = report.tally
    assert tally.balanced
    assert (tally.read, tally.written, tally.dead) == (case.records, case.records - case.dead, case.dead)
    assert len(set(sink.keys)) == len(sink.keys) == tally.written
