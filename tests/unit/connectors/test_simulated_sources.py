from __future__ import annotations

import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.models import BlobSource, EventSource, LogSource
from connectors.simulated import BlobConnector, EventsConnector, LogsConnector, SimulatedParams
from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Source
from engine.contract.split import Split
from engine.registry import Registry

STARTED = datetime(2025, 3, 1, 12, tzinfo=UTC)
KINDS = [(BlobConnector, BlobSource), (LogsConnector, LogSource), (EventsConnector, EventSource)]


def context(**changes: Any) -> Context:
    return Context(**{"seed": "run-seed", "started_at": STARTED, **changes})


async def splits_of(source: Source[Any], ctx: Context) -> list[Split]:
    return [split async for split in source.splits(ctx)]


async def read_all(source: Source[Any], split: Split, ctx: Context, position: object = None) -> list[Batch]:
    async with aclosing(source.read(split, position, ctx)) as batches:
        return [batch async for batch in batches]


def rows(batches: list[Batch]) -> list[Any]:
    return [record for batch in batches for record in batch.records]


@pytest.mark.slow
@pytest.mark.parametrize(("connector", "model"), KINDS)
async def test_a_source_reads_its_records_with_keys_in_order(connector: Any, model: Any) -> None:
    source, ctx = connector(SimulatedParams(records=1234)), context()
    (split,) = await splits_of(source, ctx)
    batches = await read_all(source, split, ctx)
    keys = [key for batch in batches for key in batch.keys.to_list()]
    assert keys == [f"run-seed/{n}" for n in range(1234)]
    assert [batch.position for batch in batches] == [500, 1000, 1234]
    assert all(model.model_validate(record).model_dump(mode="json") == record for record in rows(batches))
    assert all(len(batch.keys) == len(batch) for batch in batches)


@pytest.mark.slow
async def test_reading_on_from_a_position_gives_what_was_left() -> None:
    source, ctx = LogsConnector(SimulatedParams(records=1700, page_size=300)), context()
    (split,) = await splits_of(source, ctx)
    whole = await read_all(source, split, ctx)
    for done in range(len(whole)):
        rest = await read_all(LogsConnector(source.params), split, ctx, whole[done].position)
        assert rows(rest) == rows(whole[done + 1 :])
        assert [key for batch in rest for key in batch.keys.to_list()] == [
            key for batch in whole[done + 1 :] for key in batch.keys.to_list()
        ]


@pytest.mark.slow
async def test_stored_split_reproduces_its_records() -> None:
    source = EventsConnector(SimulatedParams(records=1000))
    (split,) = await splits_of(source, context())
    stored = Split(split.key, json.loads(json.dumps(split.manifest)), split.first_ordinal)
    later = context(seed="another", started_at=None, node="x")
    again = await read_all(EventsConnector(SimulatedParams(records=5)), stored, later)
    first = await read_all(source, split, context())
    assert rows(again) == rows(first)
    assert again[0].keys.to_list() == first[0].keys.to_list()


@pytest.mark.slow
async def test_splits_cover_the_run_and_cut_nothing_else() -> None:
    whole_source = BlobConnector(SimulatedParams(records=2500))
    parts_source = BlobConnector(SimulatedParams(records=2500, split_size=999))
    ctx = context()
    (whole,) = await splits_of(whole_source, ctx)
    parts = await splits_of(parts_source, ctx)
    assert [split.key for split in parts] == ["0-999", "999-1998", "1998-2500"]
    assert [split.first_ordinal for split in parts] == [0, 999, 1998]
    assert [(split.manifest["start"], split.manifest["stop"]) for split in parts] == [
        (0, 999), (999, 1998), (1998, 2500),
    ]  # fmt: skip
    joined = [record for part in parts for record in rows(await read_all(parts_source, part, ctx))]
    assert joined == rows(await read_all(whole_source, whole, ctx))


async def test_records_are_stamped_from_the_start_of_the_run() -> None:
    source, ctx = BlobConnector(SimulatedParams(records=2)), context()
    (split,) = await splits_of(source, ctx)
    assert [record["ingested_at"] for record in rows(await read_all(source, split, ctx))] == [
        "2025-03-01T12:00:00.000000+00:00",
        "2025-03-01T12:00:00.000001+00:00",
    ]


@pytest.mark.slow
async def test_two_nodes_of_one_run_make_different_records() -> None:
    ids = set()
    for node in ("first", "second"):
        source, ctx = BlobConnector(SimulatedParams(records=500)), context(pipeline="p", node=node)
        (split,) = await splits_of(source, ctx)
        ids |= {record["id"] for record in rows(await read_all(source, split, ctx))}
    assert len(ids) == 1000


@pytest.mark.slow
async def test_a_given_seed_fixes_the_records_over_runs_and_reports_it() -> None:
    found = []
    for run_seed in ("a", "b"):
        source, ctx = LogsConnector(SimulatedParams(records=10, seed=42)), context(seed=run_seed)
        (split,) = await splits_of(source, ctx)
        (batch,) = await read_all(source, split, ctx)
        found.append((batch.records, batch.keys.to_list()))
    assert found[0] == found[1]
    assert found[0][1][0] == "42/0"
    assert not LogsConnector(SimulatedParams(seed=42)).fresh_keys
    assert LogsConnector().fresh_keys


@pytest.mark.slow
async def test_a_source_that_is_drained_ends_at_a_batch_boundary() -> None:
    source = LogsConnector(SimulatedParams(records=5000, page_size=100))
    ctx = context(draining=lambda: True)
    (split,) = await splits_of(source, ctx)
    assert [batch.position for batch in await read_all(source, split, ctx)] == [100]


@pytest.mark.slow
@pytest.mark.parametrize(("connector", "model"), KINDS)
async def test_extract_yields_models_without_a_pipeline(connector: Any, model: Any) -> None:
    async with aclosing(connector(SimulatedParams(records=700, seed=3)).extract()) as models:
        found = [record async for record in models]
    assert len(found) == 700
    assert all(type(record) is model for record in found)
    made = connector().generate(3, 0, 700, STARTED)
    stamp = "ingested_at" if model is BlobSource else "timestamp"
    assert [record.model_dump(exclude={stamp}) for record in found] == [
        {name: value for name, value in record.items() if name != stamp} for record in made
    ]


async def test_extract_without_a_seed_gives_new_records_each_time() -> None:
    source = BlobConnector(SimulatedParams(records=3))
    ids = [record.id async for record in source.extract()] + [record.id async for record in source.extract()]
    assert len(set(ids)) == 6


@pytest.mark.parametrize("value", [None, 0, "0"])
def test_no_number_of_records_means_a_thousand(value: object) -> None:
    assert SimulatedParams.model_validate({"records": value}).records == 1000
    assert SimulatedParams().records == 1000


def test_the_schema_for_editors_allows_what_the_parameters_allow() -> None:
    records = SimulatedParams.model_json_schema()["properties"]["records"]
    assert records["anyOf"] == [{"type": "integer"}, {"type": "null"}]
    assert "minimum" not in records


@pytest.mark.parametrize(
    "params", [{"records": -1}, {"records": 10**20}, {"page_size": 0}, {"split_size": 0}, {"record": 5}]
)
def test_impossible_parameters_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(params))):
        SimulatedParams.model_validate(params)


def test_only_the_cutting_may_change_between_attempts_of_a_run() -> None:
    for connector, _ in KINDS:
        assert connector.spec.operational_params() == {"page_size", "split_size"}  # type: ignore[attr-defined]


def test_the_three_kinds_are_registered_under_their_names() -> None:
    registry = Registry({}).including(BlobConnector, LogsConnector, EventsConnector)
    assert registry.names() == [(Kind.SOURCE, "blob"), (Kind.SOURCE, "events"), (Kind.SOURCE, "logs")]
    spec = registry.get(Kind.SOURCE, "blob")
    assert isinstance(spec.factory(SimulatedParams(records=3), None), BlobConnector)
    assert spec.summary == "Simulated objects of a blob store, as `BlobSource` records."


@pytest.mark.slow
@pytest.mark.parametrize("connector", [BlobConnector, LogsConnector, EventsConnector])
async def test_a_given_seed_fixes_every_value(connector: type[BlobConnector]) -> None:
    source = connector(SimulatedParams(records=50, seed=7))
    now, later = context(), context(started_at=STARTED + timedelta(days=9))

    first = [rows(await read_all(source, split, now)) for split in await splits_of(source, now)]

    assert [rows(await read_all(source, split, later)) for split in await splits_of(source, later)] == first
