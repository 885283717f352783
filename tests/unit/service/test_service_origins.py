"""Dead letters name the pipeline, run and node of their record, if the sender does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.service.models import IngestModel
from engine.service.warehouse import Warehouse
from tests.unit.service.old_formats import FORMAT_3

ORIGIN = {"X-ODW-Origin": "my%2Fpipeline/run%201/load"}
BAD = {"id": "a", "text": "[DLQ]"}


async def stored(client: httpx.AsyncClient, **query: str) -> list[tuple[Any, ...]]:
    items = (await client.get("/dead-letters", params=query)).json()["items"]
    return [(one["record_id"], one["pipeline"], one["run"], one["node"], one["key"]) for one in items]


@pytest.mark.slow
async def test_origin_of_a_request_is_kept_with_its_dead_letters(client: httpx.AsyncClient) -> None:
    await client.post("/ingest/NoteSource", json=[BAD, {"id": "b"}], headers=ORIGIN)
    await client.post("/ingest/NoteSource", json={"id": "c", "text": "[DLQ]"})
    sent = ("my/pipeline", "run 1", "load", None)
    assert await stored(client, run="run 1", node="load") == [("a", *sent), ("b", *sent)]
    assert await stored(client, pipeline="other") == []
    assert await stored(client, key="a") == []
    assert await stored(client, id="c") == [("c", None, None, None, None)]


@pytest.mark.slow
async def test_who_names_no_origin_takes_none_away(client: httpx.AsyncClient) -> None:
    await client.post("/ingest/NoteSource", json=BAD, headers=ORIGIN)
    await client.post("/ingest/NoteSource", json=BAD | {"size": 2})
    assert await stored(client) == [("a", "my/pipeline", "run 1", "load", None)]
    await client.post("/ingest/NoteSource", json=BAD, headers={"X-ODW-Origin": "p/r/n"})
    assert await stored(client) == [("a", "p", "r", "n", None)]


@pytest.mark.parametrize("header", ["", "a/b", "a/b/c/d", "a//c", "/".join(["x" * 400] * 3)])
async def test_an_origin_of_another_form_is_refused(client: httpx.AsyncClient, header: str) -> None:
    answer = await client.post("/ingest/NoteSource", json=BAD, headers={"X-ODW-Origin": header})
    assert answer.status_code == 400
    assert "X-ODW-Origin must be" in answer.text
    assert await stored(client) == []


def forwarded(number: int, body: object) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return json.dumps({"id": f"dlq_{number}", "extracted_data": text})


@pytest.mark.slow
def test_letters_of_an_older_warehouse_get_their_origins(path: Path, models: tuple[IngestModel, ...]) -> None:
    import duckdb

    error = {"pipeline": "p", "node": "n", "key": "it's", "run": "?"}
    originals = {
        "dlq_1": forwarded(1, {"error": error, "record": None}),
        "dlq_2": forwarded(2, "no JSON"),
        "dlq_3": forwarded(3, {"error": "none"}),
        "dlq_4": '{"id": "dlq_4"}',
        "other": forwarded(5, {"error": error}),
    }
    Warehouse.open(path, models).close()
    with duckdb.connect(str(path)) as connection:
        for statement in FORMAT_3:
            connection.execute(statement)
        for identifier, original in originals.items():
            connection.execute(
                "INSERT INTO _odw_dead_letters VALUES (?, 'M', NULL, ?, ?, 'E', 'm', now(), 'transform',"
                " 'discarded', 1, 0, NULL)",
                [identifier, identifier, original],
            )
    for _ in range(2):
        warehouse = Warehouse.open(path, models)
        with warehouse.reading() as reader:
            found = reader.execute(
                "SELECT record_id, pipeline, run, node, key, closed_at IS NULL FROM _odw_dead_letters "
                "ORDER BY record_id"
            ).fetchall()
        warehouse.close()
        assert found[0] == ("dlq_1", "p", None, "n", "it's", False)
        assert [one[1:5] for one in found[1:]] == [(None, None, None, None)] * 4
