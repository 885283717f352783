"""Tables of a DuckDB file; behaviour shared with PostgreSQL is in tests/integration/test_tables.py."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from connectors.duckdb import DuckdbSink, DuckdbSinkParams
from connectors.duckdb.database import Database, DuckdbParams
from engine.cli import main
from engine.errors import BatchError, FatalError, TransientError
from tests.table_targets import TABLE, DuckdbTarget, batch_of


@pytest.fixture
def target(tmp_path: Path) -> DuckdbTarget:
    return DuckdbTarget(tmp_path / "w.duckdb")


@pytest.mark.slow
async def test_constraints_of_an_existing_table_fail_a_row_alone(target: DuckdbTarget) -> None:
    target.sql("CREATE TABLE tables.t (id INTEGER UNIQUE, n DECIMAL(5, 2) CHECK (n > 0))")
    page = [{"id": number, "n": "2.5"} for number in range(20)]
    page[3], page[11], page[12] = {"id": 3, "n": -1}, {"id": 2, "n": 1}, {"id": 12, "n": "secret"}

    failures = await target.write(page)

    assert failures == {3: "ConstraintViolated", 11: "ConstraintViolated", 12: "ValueRefused"}
    assert len(target.rows()) == 17


@pytest.mark.slow
async def test_messages_hold_no_values(target: DuckdbTarget) -> None:
    target.sql("CREATE TABLE tables.t (id DECIMAL(5, 2))")
    async with target.sink() as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of([{"id": 'it\'s "secret"'}]))
    assert "secret" not in str(caught.value)
    assert "DuckDB refused the row: Conversion Error" in str(caught.value)


async def test_a_refused_value_leaves_a_whole_sentence(target: DuckdbTarget) -> None:
    target.sql("CREATE TABLE tables.t (m MAP(VARCHAR, INTEGER))")
    async with target.sink() as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of([{"m": {"secret": "can't"}}]))
    assert "with a value cannot be cast to the destination type MAP" in str(caught.value.failures[0])


@pytest.mark.slow
async def test_a_file_that_another_process_holds_names_it(target: DuckdbTarget) -> None:
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else is to go on meanwhile
        [sys.executable, "-c", code, str(target.file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(FatalError) as caught:
            async with target.sink(lock_timeout=0):
                pass
        holder.communicate()
    assert f"is open in process {holder.pid}" in str(caught.value)
    assert "only one process can write" in str(caught.value)


@pytest.mark.slow
async def test_a_file_that_another_node_is_closing_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing, connect = [True, True], duckdb.connect

    def connected(path: str, **options: Any) -> duckdb.DuckDBPyConnection:
        if closing:  # what DuckDB says to one thread while another closes the file
            closing.pop()
            raise duckdb.ResourceInUseException('Unique file handle conflict: Cannot attach "x"')
        return connect(path, **options)

    monkeypatch.setattr(duckdb, "connect", connected)
    monkeypatch.setattr("connectors.duckdb.database._POLL_SECONDS", 0)
    database = Database(DuckdbParams(path=str(tmp_path / "x.duckdb")))
    await database.open()
    assert await database.fetch("SELECT 1") == [(1,)]
    await database.close()


@pytest.mark.slow
async def test_a_file_that_is_not_duckdb_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n" * 1000)
    for path, message in [
        (tmp_path / "a.csv", "is not a DuckDB file"),
        (tmp_path / "no" / "a.db", "there is no folder"),
        (tmp_path, "cannot be used"),
    ]:
        with pytest.raises(FatalError, match=message):
            async with DuckdbSink(DuckdbSinkParams(path=str(path), table="t")):
                pass


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "merge"}, "needs a `key`"),
        ({"key": "id"}, "`key` is for `mode: merge`"),
        *(
            ({"columns": {"a": sql}}, "is not an SQL type")
            for sql in (
                "int); DROP TABLE t; --",
                "int(5), b text(6)",
                "int, b text",
                "a('x' || y)",
                "int(",
                "",
            )
        ),
    ],
)
def test_parameters_that_do_not_go_together(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DuckdbSinkParams(path="a", table="t", **params)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    ["numeric(12, 2)", "timestamp(3) with time zone", "STRUCT(a INTEGER, b DECIMAL(9, 2)[])[]", "public.mood",
     "DateTime64(6, 'Europe/Berlin')", "LowCardinality(Nullable(String))", "Enum8('a b' = -1, ')' = 2)"],
)  # fmt: skip
def test_columns_take_any_type_of_a_database(sql: str) -> None:
    assert DuckdbSinkParams(path="a", table="t", columns={"a": sql}).columns == {"a": sql}


@pytest.mark.slow
async def test_times_beyond_the_calendar_of_python_stay_as_they_are(target: DuckdbTarget) -> None:
    target.sql(
        "CREATE TABLE tables.t AS SELECT 'infinity'::DATE AS day, '-infinity'::TIMESTAMP AS since, "
        "'infinity'::TIMESTAMPTZ AS until, '0044-03-15 (BC)'::DATE AS ides, "
        "TIMESTAMP_NS '2026-01-01 12:00:00.123456789' AS ns, TIMESTAMP '2026-01-01 12:00:00.5' AS at"
    )
    (row,) = await target.read(query="SELECT * FROM tables.t")
    assert row == {
        "day": "infinity", "since": "-infinity", "until": "infinity", "ides": "0044-03-15 (BC)",
        "ns": "2026-01-01T12:00:00.123456789", "at": "2026-01-01T12:00:00.500000",
    }  # fmt: skip


@pytest.mark.slow
async def test_rows_are_read_as_json_has_them(target: DuckdbTarget) -> None:
    target.sql(
        "CREATE TABLE tables.t AS SELECT 1 AS id, TIMESTAMPTZ '2026-01-01 12:00:00.5+02' AS at, "
        "DATE '2026-01-01' AS day, 1.25::DECIMAL(9, 2) AS amount, '{\"a\": [1]}'::JSON AS more, "
        "{'x': DATE '2026-01-02'} AS nested, [1.5::DECIMAL(9, 2)] AS list, 'a'::BLOB AS bytes"
    )
    assert await target.read(query="SELECT * FROM tables.t;") == [
        {
            "id": 1, "at": "2026-01-01T10:00:00.5+00:00", "day": "2026-01-01", "amount": 1.25,
            "more": {"a": [1]}, "nested": {"x": "2026-01-02"}, "list": [1.5], "bytes": "YQ==",
        }
    ]  # fmt: skip


async def test_times_inside_other_values_keep_their_zone(target: DuckdbTarget) -> None:
    target.sql(
        "SET TimeZone = 'America/New_York'; CREATE TABLE tables.t AS "
        "SELECT {'at': TIMESTAMPTZ '2026-01-02 12:00:00+02', 'n': 1} AS s, "
        "[TIMESTAMPTZ 'infinity', NULL] AS l"
    )
    assert await target.read(table=TABLE) == [
        {"s": {"at": "2026-01-02 10:00:00+00", "n": 1}, "l": ["infinity", None]}
    ]


@pytest.mark.slow
async def test_a_table_is_read_and_written_in_one_file(target: DuckdbTarget) -> None:
    await target.write([{"id": 1}])
    source = target.source(table=TABLE, key="id")
    async with source, target.sink("r2") as sink, aclosing(source.extract()) as pages:
        async for page in pages:
            await sink.write(batch_of([{"id": record["id"] + 1} for record in page]))
    assert target.rows() == [(1,), (2,)]


TWICE = """\
version: 1
pipelines:
  both:
    nodes:
      one: {source: generate, with: {records: 300, seed: 7, fields: {id: "{number}", from: one}}}
      two: {source: generate, with: {records: 300, seed: 7, fields: {id: "{number}", from: two}}}
      three: {source: duckdb, with: {path: in.duckdb, table: t, key: id}}
      four: {source: duckdb, with: {path: in.duckdb, table: t, key: id}}
      load: {sink: duckdb, input: [one, two, three, four], with: {path: w.duckdb, table: t}}
"""


@pytest.mark.slow
def test_sources_with_the_same_keys_do_not_hide_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(TWICE)
    with duckdb.connect("in.duckdb") as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT range::VARCHAR AS id, 'file' AS \"from\" FROM range(300)"
        )

    assert main(["run", "--quiet", "--verify"]) == 0
    query = 'SELECT "from", count(*) FROM t GROUP BY 1 ORDER BY 1'
    with duckdb.connect("w.duckdb") as connection:
        rows = connection.execute(query).fetchall()
    assert rows == [("file", 600), ("one", 300), ("two", 300)]


@pytest.mark.slow
async def test_a_part_that_was_committed_is_not_added_again(
    target: DuckdbTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.sql("CREATE TABLE tables.t (id INTEGER CHECK (id > 0))")
    batch = batch_of([{"id": 1}, {"id": 2}, {"id": 3}, {"id": -4}])
    async with target.sink() as opened:
        run, calls = opened._database.run, 0

        async def interrupted(work: Any) -> Any:
            nonlocal calls
            calls += "_insert" in work.__code__.co_names
            if calls == 3:  # all of them were refused, the first half was committed
                calls += 1
                raise TransientError("another transaction got in between")
            return await run(work)

        monkeypatch.setattr(opened._database, "run", interrupted)
        with pytest.raises(TransientError):
            await opened.write(batch)
        with pytest.raises(BatchError) as caught:
            await opened.write(batch)

    assert list(caught.value.failures) == [3]
    assert target.rows() == [(1,), (2,), (3,)]


@pytest.mark.slow
async def test_two_fields_of_one_column_never_overwrite_each_other(target: DuckdbTarget) -> None:
    await target.write([{"id": 1, "a": 1}])
    page = [{"id": 2, "A": 5}, {"id": 3, "a": 6}, {"id": 4, "A": 7, "a": 8}]
    failures = await target.write(page, evolve=False, run="r2")

    assert failures == {2: "FieldName"}
    assert target.rows() == [(1, 1), (2, 5), (3, 6)]


@pytest.mark.slow
async def test_a_source_can_be_read_twice(target: DuckdbTarget) -> None:
    await target.write([{"id": 1}])
    source = target.source(table=TABLE)
    for _ in range(2):
        async with source, aclosing(source.extract()) as pages:
            assert [record async for page in pages for record in page] == [{"id": 1}]
