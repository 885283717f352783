"""Queries that may need much memory run in a process limited by the kernel."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import orjson
import pytest

from engine.service import query_process
from engine.service.models import IngestModel
from engine.service.query_process import answer_query
from engine.service.sql import TOO_MUCH, QueryError, QueryLimits, QueryResult
from engine.service.sql_functions import _PACKING, _PLAIN, is_watchable
from engine.service.warehouse import Warehouse


def tree_of(sql: str) -> object:
    import duckdb

    found = duckdb.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    return orjson.loads(found[0][0])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT level, count(*) AS n FROM Log WHERE message LIKE '%x%' GROUP BY level ORDER BY n DESC",
        "SELECT first_name || ' ' || last_name FROM People",
        "SELECT date_trunc('hour', t), sum(a) OVER (PARTITION BY b), t AT TIME ZONE 'UTC' FROM x",
        "SELECT CASE WHEN a > 1 THEN 'b' END, coalesce(a, b), a[1], s.a.b, j ->> '$.x', a::DECIMAL(5) FROM x",
        "SELECT * FROM range(10), unnest([1, 2])",
        "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t WHERE a < 9) SELECT max(a) FROM t",
        "WITH a AS (FROM x), b AS (FROM a), c AS (FROM B, y), d AS (FROM c), e AS (FROM d) FROM e",
        "DESCRIBE Log",
        "SUMMARIZE Log",
    ],
)
def test_common_queries_are_answered_here(sql: str) -> None:
    assert is_watchable(tree_of(sql))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT repeat('x', 1000000000)",
        "SELECT a.repeat(1000000000) FROM x AS a",
        "SELECT Repeat('x', 9) FROM x",
        "SELECT a FROM x ORDER BY length(rpad('a', 999999999, 'b'))",
        "SELECT count(*) FROM x WHERE EXISTS (SELECT replace(a, 'b', c) FROM y)",
        "SELECT lower((SELECT string_agg(text, '') FROM Note)) FROM Note",
        "SELECT string_agg(a) OVER () FROM x",
        "SELECT [n FOR n IN a] FROM x",
        "SELECT range(1000000) FROM x",
        "SELECT * FROM json_tree('{}')",
        "SELECT * FROM repeat('x', 5)",
        "SELECT NULL::INT[100000] FROM x",
        (
            "WITH a AS (SELECT x || x AS x FROM t), b AS (SELECT x || x AS x FROM a) "
            "SELECT x || x || x || x FROM b"
        ),
        "SUMMARIZE SELECT repeat('x', 1000000000)",
        "DESCRIBE SELECT repeat('x', 1000000000)",
        "no SQL",
        "SELECT * FROM x WHERE " + " AND ".join(f"n <> {i}" for i in range(500)),
        "WITH a AS (FROM x), b AS (FROM a, a), c AS (FROM b, b), d AS (FROM c, c), e AS (FROM d, d) FROM e",
        (
            "WITH a AS (WITH a AS (WITH a AS (WITH a AS (FROM x) FROM a, a) FROM a, a) FROM a, a) "
            "SELECT count(*) FROM a, a"
        ),
        "WITH a AS (SELECT 1), b AS (FROM a, a), c AS (FROM b, b), d AS (FROM c, c), e AS (FROM d, d) FROM e",
        "SELECT count(*) FROM x GROUP BY CUBE (a, b, c, d, e)",
        "SELECT * FROM x" + ", x" * 40,
    ],
)
def test_what_makes_much_out_of_little_is_not(sql: str) -> None:
    assert not is_watchable(tree_of(sql))


@pytest.mark.slow
def test_functions_that_are_named_exist() -> None:
    import duckdb

    known = {name for (name,) in duckdb.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    assert known >= _PLAIN | _PACKING
    assert not _PLAIN & _PACKING


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "filled"),
    [
        ('SELECT repeat(text, 2) FROM NOTE, "_odw_meta"', {"Note", "_odw_meta"}),
        ("SELECT repeat('x', 2)", set()),
        ("SELECT repeat('x', estimated_size) FROM duckdb_tables()", {"Note", "_odw_meta", "_odw_tables"}),
    ],
    ids=["named", "none", "sizes"],
)
async def test_a_copy_has_all_tables_and_the_rows_of_those_named(
    warehouse: Warehouse,
    client: httpx.AsyncClient,
    note: Callable[..., dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    sql: str,
    filled: set[str],
) -> None:
    import duckdb

    files: list[Path] = []
    rows: dict[str, int] = {}

    def apart(file: Path, sql: str, limit: int, limits: QueryLimits) -> QueryResult:
        files.append(file)
        with duckdb.connect(str(file), read_only=True) as copy:
            for (name,) in copy.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                rows[name] = len(copy.table(name).fetchall())
        return QueryResult([], [], False, 0.0)

    await client.post("/ingest/Note", json=[note("a")])
    monkeypatch.setattr(query_process, "_run_apart", apart)
    answer_query(warehouse, sql, 5, QueryLimits(seconds=600))
    assert rows.keys() >= {"Note", "_odw_meta", "_odw_batches", "_odw_dead_letters"}
    assert {name for name in ("Note", "_odw_meta", "_odw_tables") if rows[name]} == filled
    assert not files[0].parent.exists()


@pytest.mark.slow
def test_copies_that_a_killed_service_left_are_removed(path: Path, models: tuple[IngestModel, ...]) -> None:
    left, snapshot = path.parent / "snapshots" / "query-1", path.parent / "snapshots" / "warehouse-1.duckdb"
    left.mkdir(parents=True)
    for file in (left / "warehouse.duckdb", snapshot):
        file.touch()
    Warehouse.open(path, models).close()
    assert not left.exists()
    assert snapshot.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel keeps addresses within a limit on Linux only")
@pytest.mark.series
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(repeat('x', 1000000000))",
        "SELECT max(length(repeat(chr(a::INT % 9 + 65), 4000000))) FROM range(9000) AS t(a)",
        "SUMMARIZE SELECT repeat('x', 1000000000)",
    ],
)
async def test_a_huge_value_costs_the_service_no_memory(client: httpx.AsyncClient, sql: str) -> None:
    before = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    answer = await client.post("/sql", json={"sql": sql})
    assert (answer.status_code, answer.json()) == (413, {"error": TOO_MUCH})
    after = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    assert after[0] - before[0] < 64 * 1024  # in KiB
    assert after[1] < max(before[1], 1024 * 1024)


@pytest.mark.series
async def test_a_query_apart_is_answered_like_any_other(
    client: httpx.AsyncClient, note: Callable[..., dict[str, object]]
) -> None:
    await client.post("/ingest/Note", json=[note("a"), note("b")])
    await client.post("/ingest/Note", json=[note("a", "newer")])
    sql = "SELECT string_agg(id || text, ',' ORDER BY id) AS s, [1.5] AS l FROM warehouse.main.\"Note\""
    found = (await client.post("/sql", json={"sql": sql})).json()
    assert found["rows"] == [["anewer,btext", ["1.5"]]]
    assert found["columns"] == [{"name": "s", "type": "VARCHAR"}, {"name": "l", "type": "DECIMAL(2,1)[]"}]
    listing = "SELECT string_agg(table_name, ',') FROM information_schema.tables WHERE table_name ILIKE 'n%'"
    assert (await client.post("/sql", json={"sql": listing})).json()["rows"] == [["Note"]]
    more = (await client.post("/sql", json={"sql": "SELECT repeat('x', 2) FROM range(9)", "limit": 3})).json()
    assert (more["rows"], more["truncated"]) == ([["xx"]] * 3, True)
    for wrong in (
        "SELECT repeat(",
        "SELECT replace(1, 2)",
        "SELECT repeat(x, 2) FROM read_text('/')",
    ):
        answer = await client.post("/sql", json={"sql": wrong})
        assert answer.status_code == 400
        assert answer.json()["error"]


@pytest.mark.series
def test_a_query_apart_that_runs_too_long_is_ended(warehouse: Warehouse) -> None:
    sql = "SELECT count(*) FROM range(1000000000000) AS t(a) WHERE repeat('x', a % 3) = 'y'"
    with pytest.raises(QueryError, match="longer than") as caught:
        answer_query(warehouse, sql, 5, QueryLimits(seconds=0.3))
    assert caught.value.status == 408
