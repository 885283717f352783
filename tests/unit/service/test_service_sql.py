"""Queries in SQL: their access, and its limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.service.app import create_app
from engine.service.auth import hash_of
from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.sql import QueryError, QueryLimits, run_query
from engine.service.warehouse import Warehouse
from tests.examples import WITH_FIXTURES, examples
from tests.series import few

Rows = list[list[Any]]


async def ask(client: httpx.AsyncClient, sql: str, **rest: object) -> httpx.Response:
    return await client.post("/sql", json={"sql": sql, **rest})


@pytest.fixture
async def filled(client: httpx.AsyncClient, note: Callable[..., dict[str, object]]) -> httpx.AsyncClient:
    await client.post("/ingest/Note", json=[note("a"), note("b")])
    await client.post("/ingest/Note", json=[note("a", "newer")])
    return client


@pytest.mark.slow
async def test_rows_are_current_while_a_table_is_dirty(filled: httpx.AsyncClient) -> None:
    found = (await ask(filled, 'SELECT id, text FROM "Note" ORDER BY id -- newest\n')).json()
    assert found["rows"] == [["a", "newer"], ["b", "text"]]
    assert found["columns"] == [{"name": "id", "type": "VARCHAR"}, {"name": "text", "type": "VARCHAR"}]
    assert found["truncated"] is False


@pytest.mark.slow
async def test_a_limit_says_that_there_is_more(filled: httpx.AsyncClient) -> None:
    found = (await ask(filled, "SELECT * FROM range(10)", limit=3)).json()
    assert (len(found["rows"]), found["truncated"]) == (3, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "row"),
    [
        ("SELECT 9223372036854775807::HUGEINT * 100", ["922337203685477580700"]),
        ("SELECT TIMESTAMPTZ '2026-01-02 03:04:05+00' IS NOT NULL, now() > now()", [True, False]),
        ("SELECT 'nan'::DOUBLE, 1.50::DECIMAL(5,2), NULL", ["nan", "1.50", None]),
        ("SELECT {'a': [1, 2]}, DATE '2026-01-02', '\\xAA'::BLOB", [{"a": [1, 2]}, "2026-01-02", "aa"]),
        ("SELECT INTERVAL 14 MONTH, [INTERVAL 1 DAY]", ["1 year 2 months", "[1 day]"]),
        ("SELECT TIMESTAMP_NS '2026-01-02 03:04:05.123456789'", ["2026-01-02 03:04:05.123456789"]),
        ("VALUES (1)", [1]),
        ("SELECT 'é;' -- ; one\n; -- two ; /* three", ["é;"]),
        ("FROM range(1)", [0]),
    ],
)
async def test_every_type_has_a_form_in_json(client: httpx.AsyncClient, sql: str, row: list[Any]) -> None:
    assert (await ask(client, sql)).json()["rows"] == [row]


@pytest.mark.slow
async def test_times_with_a_zone_come_as_text(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "SELECT now() AS n, [now()] AS l, 1 AS one")
    assert [type(value) for value in answer.json()["rows"][0]] == [str, str, int]


FORBIDDEN = [
    'DELETE FROM "Note"',
    "UPDATE \"Note\" SET text = 'x'",
    'INSERT INTO "Note" SELECT * FROM "Note"',
    'WITH a AS (SELECT 1) DELETE FROM "Note"',
    'DROP TABLE "Note"',
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    'EXPLAIN ANALYZE DELETE FROM "Note"',
    "COPY \"Note\" TO 'x.csv'",
    "EXPORT DATABASE 'x'",
    "ATTACH 'x.duckdb'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '100GB'",
    "PRAGMA enable_profiling",
    "CALL enable_logging()",
    "CHECKPOINT",
    "UPDATE EXTENSIONS",
    "SELECT " + "+".join(["(SELECT 1)"] * 600),
    "SELECT * FROM checkpoint()",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM (SELECT * FROM (FROM duckdb_secrets()))",
    "SELECT (SELECT count(*) FROM duckdb_settings())",
    "WITH x AS (SELECT * FROM duckdb_databases()) SELECT * FROM x",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('https://example.org/')",
    "SELECT * FROM glob('*')",
    "SELECT * FROM query('DELETE FROM \"Note\"')",
    "SELECT 1; SELECT 2",
    'SELECT 1) AS x; DROP TABLE "Note"; SELECT * FROM (SELECT 1',
    "SELECT 1) UNION (SELECT 2",
    "",
    ";",
    "-- nothing",
    "no SQL at all",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
]


@pytest.mark.slow
@pytest.mark.parametrize("sql", few(FORBIDDEN, 13))
async def test_nothing_but_reading_is_possible(filled: httpx.AsyncClient, sql: str) -> None:
    answer = await ask(filled, sql)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert (await ask(filled, 'SELECT count(*) FROM "Note"')).json()["rows"] == [[2]]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "EOF"),
        (b"[]", "object"),
        (b"{}", "sql: Field required"),
        (b'{"sql": 5}', "sql: Input should be a valid string"),
        (b'{"sql": "SELECT 1", "x": 1}', "x: Extra inputs"),
        (b"\xff", "Invalid JSON"),
        (b'{"sql": "SELECT 1", "limit": 20000}', "limit: Input should be less"),
    ],
)
async def test_an_odd_body_is_refused_in_words(client: httpx.AsyncClient, content: bytes, what: str) -> None:
    answer = await client.post("/sql", content=content)
    assert answer.status_code == 400
    assert "sql" in answer.json()["error"]
    assert what in answer.json()["error"]


@pytest.mark.slow
async def test_a_pivot_without_values_is_refused_with_the_remedy(filled: httpx.AsyncClient) -> None:
    answer = await ask(filled, 'PIVOT "Note" ON text USING count(*)')
    assert "Name the values of PIVOT" in answer.json()["error"]
    named = await ask(filled, "FROM (PIVOT \"Note\" ON text IN ('newer') USING count(*)) SELECT sum(newer)")
    assert named.json()["rows"] == [[1]]


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, -1, 10_001, 1.5, "5", None, True])
async def test_an_odd_limit_is_refused(client: httpx.AsyncClient, limit: object) -> None:
    assert (await ask(client, "SELECT 1", limit=limit)).status_code == 400


@pytest.mark.slow
def test_a_query_that_runs_too_long_is_ended(warehouse: Warehouse) -> None:
    with pytest.raises(QueryError, match="longer than") as caught:
        run_query(
            warehouse.query_cursor,
            "SELECT count(*) FROM range(1000000000000)",
            limits=QueryLimits(seconds=0.05),
        )
    assert caught.value.status == 408
    assert run_query(warehouse.query_cursor, "SELECT 1").rows == [[1]]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is measured on Linux only")
@pytest.mark.parametrize("value", ["range(2000)", "{'a': range(2000)}", "[[repeat('x', 20000)]]"])
def test_a_result_that_is_too_large_is_refused(warehouse: Warehouse, value: str) -> None:
    with pytest.raises(QueryError, match="larger than 8 MiB") as caught:
        run_query(warehouse.query_cursor, f"SELECT {value} FROM range(500)", limits=QueryLimits(seconds=600))
    assert caught.value.status == 413


@pytest.mark.slow
def test_a_query_that_takes_too_much_memory_is_ended(warehouse: Warehouse) -> None:
    grow = "WITH RECURSIVE t AS (SELECT 'x' AS a UNION ALL SELECT a || a FROM t) SELECT length(a) FROM t"
    with pytest.raises(QueryError) as caught:
        run_query(warehouse.query_cursor, grow, limits=QueryLimits(seconds=600, memory=32 * 1024 * 1024))
    assert caught.value.status in (400, 413)
    assert run_query(warehouse.query_cursor, "SELECT 1").rows == [[1]]


@pytest.mark.slow
@given(text=st.text(max_size=40), place=st.sampled_from(FORBIDDEN))
@settings(max_examples=examples(60), deadline=None, suppress_health_check=WITH_FIXTURES)
def test_any_text_is_answered_or_refused(warehouse: Warehouse, text: str, place: str) -> None:
    for sql in (text, text + place, place + text):
        with suppress(QueryError):
            run_query(warehouse.query_cursor, sql, limits=QueryLimits(seconds=1))


@pytest.mark.slow
async def test_queries_need_the_key_for_reading(path: Path, models: tuple[IngestModel, ...]) -> None:
    keys = ServiceSettings(consumption_api_key=hash_of("read.1"), ingest_api_key=hash_of("write.1"))
    async for client in opened(path, models, keys):
        for token, status in (("", 401), ("write.1", 401), ("read.1", 200)):
            headers = {"Authorization": f"Bearer {token}"}
            answer = await client.post("/sql", json={"sql": "SELECT 1"}, headers=headers)
            assert answer.status_code == status
            assert (await client.post("/snapshots", headers=headers)).status_code == status


@pytest.mark.slow
async def test_another_process_opens_a_snapshot(filled: httpx.AsyncClient) -> None:
    answer = await filled.post("/snapshots")
    script = f"import duckdb; print(duckdb.connect({answer.json()['file']!r}).sql('FROM Note').fetchall())"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "newer" in done.stdout
    assert done.stdout.count("('a'") == 1


@pytest.mark.slow
async def test_only_the_newest_snapshots_are_kept(filled: httpx.AsyncClient) -> None:
    files = [Path((await filled.post("/snapshots")).json()["file"]) for _ in range(5)]
    assert [file.exists() for file in files] == [False, False, True, True, True]


async def opened(
    path: Path, models: tuple[IngestModel, ...], keys: ServiceSettings
) -> AsyncIterator[httpx.AsyncClient]:
    warehouse = await asyncio.to_thread(Warehouse.open, path, models)
    try:
        transport = httpx.ASGITransport(app=create_app(warehouse, models, keys))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            yield client
    finally:
        await asyncio.to_thread(warehouse.close)
