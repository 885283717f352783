"""Tables of a DuckDB file: made, evolved, appended, merged, replaced, resumed, read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from connectors.duckdb import DuckdbSink, DuckdbSinkParams, DuckdbSource, DuckdbSourceParams
from engine.cli import main
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import BatchError, FatalError, TransientError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "w.duckdb"


def sink(file: Path, run: str = "r1", **params: Any) -> DuckdbSink:
    made = DuckdbSink(DuckdbSinkParams(path=str(file), table="t", **params))
    made.ctx = Context("p", "n", run)
    return made


def batch_of(records: Sequence[Any], start: int = 0, *, replay: bool = False) -> Batch:
    batch = Batch(list(records), KeyRange("k/", start, start + len(records)))
    batch.origins = [(SplitTracker("s", replay=replay).begin(len(records), None), len(records))]
    return batch


def rows(file: Path, query: str = "FROM t ORDER BY ALL") -> list[Any]:
    with duckdb.connect(str(file)) as connection:
        return connection.execute(query).fetchall()


async def write(file: Path, *pages: Sequence[Any], **params: Any) -> dict[int, str]:
    """Returns the kinds of failures of the last page."""
    failures: dict[int, str] = {}
    async with sink(file, **params) as opened:
        start = 0
        for page in pages:
            try:
                await opened.write(batch_of(page, start))
            except BatchError as error:
                failures = {index: one.kind for index, one in error.failures.items()}
            start += len(page)
        await opened.run_completed()
    return failures


async def test_a_table_is_made_and_gets_columns_as_they_come(file: Path) -> None:
    failures = await write(file, [{"id": 1, "n": 1}], [{"id": 2, "n": 1.5, "new": {"a": 1}}])

    assert failures == {}
    assert rows(file) == [(1, 1.0, None), (2, 1.5, '{"a":1}')]
    assert rows(file, "SELECT typeof(n), typeof(new) FROM t LIMIT 1") == [("DOUBLE", "JSON")]


async def test_a_table_that_does_not_evolve_refuses_new_fields(file: Path) -> None:
    await write(file, [{"id": 1}])
    failures = await write(file, [{"id": 2}, {"id": 3, "new": 1}, {"id": 4.5}], evolve=False, run="r2")

    assert failures == {1: "UnknownField", 2: "WrongType"}
    assert rows(file) == [(1,), (2,)]


async def test_constraints_of_an_existing_table_fail_a_row_alone(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER UNIQUE, n DECIMAL(5, 2) CHECK (n > 0))")
    page = [{"id": number, "n": "2.5"} for number in range(20)]
    page[3], page[11], page[12] = {"id": 3, "n": -1}, {"id": 2, "n": 1}, {"id": 12, "n": "secret"}

    failures = await write(file, page)

    assert failures == {3: "ConstraintViolated", 11: "ConstraintViolated", 12: "ValueRefused"}
    assert len(rows(file)) == 17


async def test_messages_hold_no_values(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE t (id DECIMAL(5, 2))")
    async with sink(file) as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of([{"id": 'it\'s "secret"'}]))
    assert "secret" not in str(caught.value)
    assert "DuckDB refused the row: Conversion Error" in str(caught.value)


async def test_a_merge_updates_the_fields_that_a_record_has(file: Path) -> None:
    await write(file, [{"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 2, "b": 2}], mode="merge", key="id")
    page = [{"id": 1, "a": 9}, {"id": 3, "a": 3}, {"id": 1, "b": 8}, {"id": 1, "a": 7}, {"a": 5}]
    failures = await write(file, page, mode="merge", key="id", run="r2")

    assert failures == {4: "MissingKey"}
    assert rows(file, "SELECT id, a, b FROM t ORDER BY id") == [(1, 7, 8), (2, 2, 2), (3, 3, None)]


async def test_a_replacing_run_shows_its_rows_when_it_is_complete(file: Path) -> None:
    await write(file, [{"id": 1}, {"id": 2}])
    async with sink(file, "r2", mode="replace") as opened:
        await opened.write(batch_of([{"id": 7, "new": "x"}]))
    assert rows(file) == [(1,), (2,)]
    async with sink(file, "r2", mode="replace") as resumed:
        await resumed.write(batch_of([{"id": 7, "new": "x"}, {"id": 8, "new": "y"}], replay=True))
        await resumed.run_completed()
    assert rows(file) == [(7, "x"), (8, "y")]
    async with sink(file, "r2", mode="replace") as told_again:
        await told_again.run_completed()
    assert rows(file) == [(7, "x"), (8, "y")]
    assert rows(file, "SELECT table_name FROM duckdb_tables() ORDER BY 1") == [("_odw_batches",), ("t",)]


async def test_a_replacing_run_without_records_empties_the_table(file: Path) -> None:
    await write(file, [{"id": 1}])
    await write(file, mode="replace", run="r2")

    assert rows(file) == []


async def test_entries_of_a_completed_run_are_forgotten(file: Path) -> None:
    await write(file, [{"id": 1}])

    assert rows(file, "FROM _odw_batches") == []


async def test_a_record_with_nothing_in_it_fails(file: Path) -> None:
    assert await write(file, [{}, {"id": None}]) == {0: "EmptyRecord", 1: "EmptyRecord"}


async def test_a_file_that_another_process_holds_names_it(file: Path) -> None:
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else is to go on meanwhile
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(FatalError) as caught:
            async with sink(file, lock_timeout=0):
                pass
        holder.communicate()
    assert f"is open in process {holder.pid}" in str(caught.value)
    assert "only one process can write" in str(caught.value)


async def test_what_is_no_duckdb_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,name\n" * 1000)
    for path, message in [
        (tmp_path / "a.csv", "is not a DuckDB file"),
        (tmp_path / "no" / "a.db", "there is no folder"),
        (tmp_path, "cannot be used"),
    ]:
        with pytest.raises(FatalError, match=message):
            async with sink(path):
                pass


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mode": "merge"}, "needs a `key`"),
        ({"key": "id"}, "`key` is for `mode: merge`"),
        ({"columns": {"a": "int); DROP TABLE t; --"}}, "is not an SQL type"),
    ],
)
def test_parameters_that_do_not_go_together(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DuckdbSinkParams(path="a", table="t", **params)
    assert message in str(caught.value)


async def read(file: Path, **params: Any) -> list[dict[str, Any]]:
    source = DuckdbSource(DuckdbSourceParams(path=str(file), **params))
    async with source, aclosing(source.extract()) as pages:
        return [record async for page in pages for record in page]


async def test_rows_are_read_as_json_has_them(file: Path) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT 1 AS id, TIMESTAMPTZ '2026-01-01 12:00:00.5+02' AS at, "
            "DATE '2026-01-01' AS day, 1.25::DECIMAL(9, 2) AS amount, '{\"a\": [1]}'::JSON AS more, "
            "{'x': DATE '2026-01-02'} AS nested, [1.5::DECIMAL(9, 2)] AS list, 'a'::BLOB AS bytes"
        )
    assert await read(file, query="SELECT * FROM t;") == [
        {
            "id": 1, "at": "2026-01-01T10:00:00.5+00:00", "day": "2026-01-01", "amount": 1.25,
            "more": {"a": [1]}, "nested": {"x": "2026-01-02"}, "list": [1.5], "bytes": "YQ==",
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"table": "t", "key": "no"}, "no column 'no' for `key`; they have id, n"),
        ({"table": "t", "key": "n"}, "names more than one row"),
        ({"query": "SELECT nullif(id, 5) AS id FROM t", "key": "id"}, "has no value in some rows"),
        ({"table": "missing"}, "missing does not exist"),
        ({"query": "SELEC 1"}, "syntax error"),
    ],
)
async def test_what_cannot_be_read_says_why(file: Path, params: dict[str, Any], message: str) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS id, 1 AS n FROM range(10)")
    source = DuckdbSource(DuckdbSourceParams(path=str(file), **params))
    with pytest.raises(FatalError, match=message):
        async with source, aclosing(source.read(next(iter([None])), None, Context())) as batches:  # type: ignore[arg-type]
            async for _ in batches:
                pass


async def test_a_table_is_read_and_written_in_one_file(file: Path) -> None:
    await write(file, [{"id": 1}])
    source = DuckdbSource(DuckdbSourceParams(path=str(file), table="t", key="id"))
    async with source, sink(file, "r2") as target, aclosing(source.extract()) as pages:
        async for page in pages:
            await target.write(batch_of([{"id": record["id"] + 1} for record in page]))
    assert rows(file) == [(1,), (2,)]


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
    assert rows(tmp_path / "w.duckdb", query) == [("file", 600), ("one", 300), ("two", 300)]


async def test_a_part_that_was_committed_is_not_added_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER CHECK (id > 0))")
    batch = batch_of([{"id": 1}, {"id": 2}, {"id": 3}, {"id": -4}])
    async with sink(file) as opened:
        run, calls = opened._database.run, 0

        async def interrupted(work: Any) -> Any:
            nonlocal calls
            calls += "_append" in work.__code__.co_names
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
    assert rows(file, "SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]


async def test_two_fields_of_one_column_never_overwrite_each_other(file: Path) -> None:
    await write(file, [{"id": 1, "a": 1}])
    with pytest.raises(FatalError, match="the fields 'A' and 'a' are the same column in DuckDB"):
        await write(file, [{"id": 2, "A": 5}, {"id": 3, "a": 6}], evolve=False, run="r2")
