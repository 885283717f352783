"""The source of warehouse rows against the real service, and against a scripted one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from connectors.consumption import ConsumptionParams, ConsumptionSource
from connectors.models import INGEST_MODELS
from connectors.warehouse.connection import WarehouseConnection
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.split import Split
from engine.errors import FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.service.server import running_service
from engine.testing import MemorySink, ScriptedClock, linear_plan
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url

pytestmark = pytest.mark.usefixtures("kept_warehouse")


def row(number: int, path: str = "", text: str = "memo") -> dict[str, object]:
    return {
        "id": f"u{number:03}",
        "source_file_path": path or f"s3://bucket/{number}.txt",
        "extracted_data": text,
        "processed_at": "2026-01-01T00:00:00+00:00",
        "processing_instructions": None,
        "transform_timestamp": f"2026-01-01T00:00:00.{number:03}+00:00",
    }


def patient(number: int) -> dict[str, object]:
    names: tuple[str, ...] = ("patient_name", "patient_age", "phone_number", "scheduled_appointment_date")
    names += ("dental_procedure_name", "doctor", "source_file_path", "transform_timestamp")
    return {"id": f"u{number:03}", **dict.fromkeys(names, "1")}


async def post(url: str, model: str, rows: list[dict[str, object]]) -> None:
    async with httpx.AsyncClient() as client:
        (await client.post(f"{url}/ingest/{model}", json=rows)).raise_for_status()


def source(url: str, token: str | None = None, **params: Any) -> ConsumptionSource:
    built = ConsumptionSource(
        ConsumptionParams(**{"model": "UnstructuredData"} | params),
        WarehouseConnection(url=url, token=SecretStr(token) if token else None),
    )
    built.ctx = Context(clock=ScriptedClock(jump=True))
    return built


async def splits_of(opened: ConsumptionSource) -> list[Split]:
    async with aclosing(opened.splits(opened.ctx)) as splits:
        return [split async for split in splits]


async def read(opened: ConsumptionSource, split: Split) -> list[Batch]:
    async with aclosing(opened.read(split, None, opened.ctx)) as batches:
        return [batch async for batch in batches]


async def listed(url: str, **params: Any) -> list[str]:
    async with source(url, **params) as opened:
        return [str(one) for split in await splits_of(opened) for one in split.manifest["ids"]]


@asynccontextmanager
async def warehouse(folder: Path, count: int = 6) -> AsyncIterator[str]:
    async with running_service(folder, models=INGEST_MODELS) as service:
        if count:
            await post(service.url, "UnstructuredData", [row(number) for number in range(count)])
        yield service.url


# --- against the real service


@pytest.mark.slow
async def test_rows_match_the_service_and_are_keyed_by_id(tmp_path: Path) -> None:
    sink = MemorySink()
    async with warehouse(tmp_path) as url, Engine() as engine:
        report = await engine.run(linear_plan(source(url, split_rows=4), sink))
    assert report.ok, report.error
    assert sorted(sink.records, key=lambda one: one["id"]) == [row(number) for number in range(6)]
    assert sorted(sink.keys) == [f"getUnstructuredData/u{number:03}" for number in range(6)]


@pytest.mark.slow
async def test_rows_that_another_model_has_already_are_left_out(tmp_path: Path) -> None:
    async with warehouse(tmp_path) as url:
        await post(url, "Medical", [patient(1), patient(4)])
        assert await listed(url, without="Medical") == ["u000", "u002", "u003", "u005"]


@pytest.mark.slow
async def test_a_query_narrows_what_is_read_and_null_leaves_a_filter_out(tmp_path: Path) -> None:
    async with warehouse(tmp_path) as url:
        await post(url, "UnstructuredData", [row(7, "s3://other/7.txt")])
        assert await listed(url, filters={"source_file_path": "other/"}) == ["u007"]
        assert len(await listed(url, filters={"source_file_path": None})) == 7
        assert await listed(url, limit=3) == ["u000", "u001", "u002"]
        assert await listed(url, limit=4, split_rows=3) == ["u000", "u001", "u002", "u003"]


@pytest.mark.slow
async def test_only_the_ids_that_were_given_are_read_and_none_of_none(tmp_path: Path) -> None:
    async with warehouse(tmp_path) as url:
        assert await listed(url, ids=["u004", "u001", "u004"]) == ["u004", "u001"]
        assert await listed(url, ids=[]) == []
        async with source(url, ids=["u004", "u001"]) as opened:
            (split,) = await splits_of(opened)
            (batch,) = await read(opened, split)
        assert [record["id"] for record in batch.records] == ["u004", "u001"]


@pytest.mark.slow
async def test_a_listing_of_several_pages_has_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.consumption.LISTED", 4)
    async with warehouse(tmp_path, 11) as url, source(url, split_rows=3) as opened:
        seen: list[str] = []
        sizes: list[int] = []
        async with aclosing(opened.splits(opened.ctx)) as splits:
            async for split in splits:
                # a row that was listed already is staged again, and one comes to the front
                await post(url, "UnstructuredData", [row(0), row(1)])
                seen += split.manifest["ids"]
                sizes.append(len(split.manifest["ids"]))
    assert seen == [f"u{number:03}" for number in range(11)]
    assert sizes == [3, 3, 3, 2]


@pytest.mark.slow
async def test_a_row_that_vanished_fails_alone(tmp_path: Path) -> None:
    async with warehouse(tmp_path) as url, source(url) as opened:
        manifest = {"api": "getUnstructuredData", "ids": ["u000", "gone", "u002"]}
        (batch,) = await read(opened, Split("000000", manifest))
    ((index, error),) = batch.failures
    assert (index, batch.records[1]) == (1, {"id": "gone"})
    assert isinstance(error, RecordError)
    assert error.kind == "RowVanished"


@pytest.mark.slow
async def test_large_rows_come_few_at_a_time_and_one_too_large_dies_alone(tmp_path: Path) -> None:
    rows = [row(number, text="x" * 20_000) for number in range(12)]
    rows[5] = row(5, text="x" * 200_000)
    async with warehouse(tmp_path, 0) as url:
        await post(url, "UnstructuredData", rows)
        async with source(url, page_bytes=50_000, max_row_bytes=100_000) as opened:
            (split,) = await splits_of(opened)
            batches = await read(opened, split)
    assert [record["id"] for batch in batches for record in batch.records] == split.manifest["ids"]
    assert max(batch.nbytes for batch in batches) < 4 * 50_000
    failures = [error for batch in batches for _, error in batch.failures]
    assert [error.kind for error in failures if isinstance(error, RecordError)] == ["RowTooLarge"]


@pytest.mark.slow
async def test_an_unknown_filter_or_model_is_fatal_and_named(tmp_path: Path) -> None:
    async with warehouse(tmp_path) as url:
        with pytest.raises(FatalError, match="answered 400: unknown parameters: file; known: after"):
            await listed(url, filters={"file": "x"})
        with pytest.raises(FatalError, match="without must name a table with ids, got Medicals"):
            await listed(url, without="Medicals")
        with pytest.raises(FatalError, match="getUnstructured answered 404"):
            await listed(url, model="Unstructured")


# --- against a service that answers what the test says


async def test_a_service_that_does_not_list_by_id_is_refused() -> None:
    newest_first = {"items": [row(2), row(1)], "total": 2}
    async with ScriptedServer(answers=[Answer.of(newest_first)]).running() as server:
        with pytest.raises(FatalError, match="does not list getUnstructuredData by id") as caught:
            await listed(server.url)
    assert caught.value.kind == "schema"


async def test_rows_that_were_not_asked_for_are_refused() -> None:
    async with ScriptedServer(lambda _: Answer.of({"items": [row(1), row(2)]})).running() as server:
        async with source(server.url, ids=["u001"]) as opened:
            (split,) = await splits_of(opened)
            with pytest.raises(FatalError, match="rows that were not requested"):
                await read(opened, split)


@pytest.mark.parametrize(("status", "kind"), [(401, "auth"), (403, "auth"), (404, "config"), (302, "config")])
async def test_wrong_tokens_and_addresses_stop_the_run(status: int, kind: str) -> None:
    async with ScriptedServer(answers=[Answer(status)]).running() as server:
        async with source(server.url, token="geheim-7") as opened:
            with pytest.raises(FatalError) as caught:
                await splits_of(opened)
    assert caught.value.kind == kind
    assert "geheim-7" not in str(caught.value)
    assert server.requests[0].headers["authorization"] == "Bearer geheim-7"


@pytest.mark.parametrize("status", [408, 429, 500, 503])
async def test_what_may_pass_is_transient_and_continues_where_it_stopped(status: int) -> None:
    down = [False]

    def script(request: Request) -> Answer:
        if down[0]:
            return Answer(status, headers={"retry-after": "7"})
        down[0] = True
        wanted = httpx.QueryParams(request.query).get_list("id")
        return Answer.of({"items": [{"id": identity, "text": "x" * 1000} for identity in wanted]})

    ids = [f"u{number}" for number in range(250)]
    async with ScriptedServer(script).running() as server, source(server.url, page_bytes=4096) as opened:
        split = Split("0", {"api": "getUnstructuredData", "ids": ids})
        async with aclosing(opened.read(split, None, opened.ctx)) as reading:
            first = await anext(reading)
            with pytest.raises(TransientError) as caught:
                await anext(reading)
    assert caught.value.retry_after == 7
    assert first.position == len(first) > 0


async def test_a_refused_connection_is_transient() -> None:
    async with source(unused_url()) as opened:
        with pytest.raises(TransientError, match="no ingest service is listening"):
            await splits_of(opened)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ids": ["a"], "without": "Medical"}, "give either the ids or a query"),
        ({"ids": ["a"], "filters": {"x": "1"}}, "give either the ids or a query"),
        ({"filters": {"limit": "1", "order": "x"}}, "limit, order cannot be a filter"),
        ({"model": "a/b"}, "String should match pattern"),
    ],
)
def test_contradictions_are_found_before_anything_runs(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ConsumptionParams(**{"model": "UnstructuredData"} | params)
