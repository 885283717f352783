"""The source `sql`, through ADBC, against a file of SQLite and a PostgreSQL server."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from connectors.sql import SqlConnection, SqlSource, SqlSourceParams
from engine.cli import main
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.errors import FatalError, TransientError
from tests.servers.postgres import PASSWORD_IN_ADDRESS, Postgres

Fill = Callable[..., None]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "shop.sqlite"


def fill(file: Path, statement: str, rows: Sequence[Sequence[Any]] = ()) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO t VALUES ({marks})", rows)
        connection.commit()


def source(file: Path | str, *, driver: str = "sqlite", **params: Any) -> SqlSource:
    params = {"table": "t"} | params if "query" not in params else params
    made = SqlSource(SqlSourceParams(**params), SqlConnection(driver=driver, url=str(file)))
    made.ctx = Context("p", "n", "r1")
    return made


async def batches(made: SqlSource, position: Any = None) -> list[Batch]:
    found = []
    async with aclosing(made.splits(made.ctx)) as splits:
        async for split in splits:
            async with aclosing(made.read(split, position, made.ctx)) as reading:
                found += [batch async for batch in reading]
    return found


def records(read: Sequence[Batch]) -> list[Any]:
    return [record for batch in read for record in batch.records]


def keys(read: Sequence[Batch]) -> list[str]:
    return [key for batch in read for key in batch.keys.to_list()]


@pytest.mark.slow
async def test_rows_are_read_in_splits_that_hold_each_once(file: Path) -> None:
    fill(file, "CREATE TABLE t (id integer, name text)", [(n, f"n{n}") for n in reversed(range(20))])
    for rows, expected in ((20, 1), (19, 2), (7, 3), (5, 4), (100, 1)):
        made = source(file, key="id", split_rows=rows, page_records=3)
        splits = [split async for split in made.splits(made.ctx)]
        read = await batches(made)
        assert len(splits) == expected
        assert records(read) == [{"id": n, "name": f"n{n}"} for n in range(20)]
        assert keys(read) == [f"n/{n}" for n in range(20)]
        assert [number for batch in read for number in batch.keys.ordinals()] == list(range(20))


@pytest.mark.slow
@pytest.mark.parametrize("key", ["id", "name"])
async def test_reading_continues_after_a_position(file: Path, key: str) -> None:
    fill(file, "CREATE TABLE t (id integer, name text)", [(n, f"n{n:02}") for n in range(20)])
    made = source(file, key=key, page_records=3)
    (split,) = [split async for split in made.splits(made.ctx)]
    whole = await batches(made)
    for index, batch in enumerate(whole):
        position = json.loads(json.dumps(batch.position))
        rest = [one async for one in made.read(split, position, made.ctx)]
        assert records(rest) == records(whole[index + 1 :])
        assert keys(rest) == keys(whole[index + 1 :])


async def test_empty_tables_and_rows_without_a_key_are_read(file: Path) -> None:
    fill(file, "CREATE TABLE t (id integer)")
    assert await batches(source(file, key="id")) == []
    fill(file, "INSERT INTO t VALUES (1), (1), (NULL)")
    made = source(file)
    assert not made.repeatable
    assert records(await batches(made)) == [{"id": 1}, {"id": 1}, {"id": None}]


@pytest.mark.slow
async def test_columns_get_their_types_from_a_whole_split(file: Path) -> None:
    rows = [(n, None if n < 3000 else f"n{n}", 1 if n else 0.5) for n in range(4000)]
    fill(file, "CREATE TABLE t (id integer, name text, x)", rows)

    read = records(await batches(source(file, key="id")))

    assert read[-1] == {"id": 3999, "name": "n3999", "x": 1}
    assert read[0] == {"id": 0, "name": None, "x": 0.5}


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([2.5, "n/a"], "real, text"),
        ([1, "n/a", None], "integer, text"),
        ([b"x", "n/a"], "blob, text"),
        ([2.5, 2**53 + 1], "long integer, real"),
    ],
)
@pytest.mark.parametrize("key", [None, "id"])
async def test_values_that_sqlites_driver_would_change_stop_the_run(
    file: Path, values: list[Any], kinds: str, key: str | None
) -> None:
    fill(file, "CREATE TABLE t (id integer, v)", list(enumerate(values)))
    with pytest.raises(FatalError, match=rf"column 'v' .*\({kinds}\).*cast it in `query`"):
        await batches(source(file, key=key))
    assert records(await batches(source(file, key="id", split_rows=1)))[0]["v"] in (values[0], "eA==")


async def test_numbers_of_one_column_are_read_as_they_are(file: Path) -> None:
    values = [2**53, -1, None, 2**62, 7]
    fill(file, "CREATE TABLE t (id integer, v, w)", [(n, v, v and n / 2) for n, v in enumerate(values)])
    fill(file, "UPDATE t SET w = 3 WHERE id = 1")
    read = records(await batches(source(file, key="id")))
    assert [(one["v"], one["w"]) for one in read] == [(2**53, 0), (-1, 3), (None, None), (2**62, 1.5), (7, 2)]


async def test_types_that_change_later_name_the_remedy(file: Path) -> None:
    fill(file, "CREATE TABLE t (id integer, x)", [(n, n if n < 1500 else 0.5) for n in range(2000)])
    with pytest.raises(FatalError, match=r"mismatch.*cast it in `query`, or raise `split_rows`"):
        await batches(source(file, split_rows=1000))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"table": "nix"}, "no such table"),
        ({"key": "nix"}, "the rows have no column 'nix'; they have id, v"),
        ({"key": "v"}, "the key 'v' has no value in some rows"),
        ({"query": "SELECT id, coalesce(v, 'a') AS v FROM t", "key": "v"}, "'v' names more than one row"),
        ({"query": "SELECT password FROM t"}, "no such column: password"),
        ({"query": "SELECT x'00' AS b", "key": "b"}, "rows cannot be ordered by 'b', of type binary"),
    ],
)
async def test_unreadable_input_stops_the_run(file: Path, params: dict[str, Any], message: str) -> None:
    fill(file, "CREATE TABLE t (id integer, v text)", [(1, "a"), (2, "a"), (3, None)])
    with pytest.raises(FatalError, match=re.escape(message)):
        await batches(source(file, **params))


@pytest.mark.parametrize(
    ("value", "what"), [("9", "numbers"), ("03.01.2026", "dates that do not begin with the year")]
)
async def test_text_without_order_does_not_tell_what_is_new(file: Path, value: str, what: str) -> None:
    fill(file, "CREATE TABLE t (id integer, at text)", [(1, value)])
    with pytest.raises(FatalError, match=f"'at' has {what} as text.*cast it in `query`"):
        await batches(source(file, key="id", incremental="at"))


async def test_a_query_may_end_with_a_comment_after_a_semicolon(file: Path) -> None:
    fill(file, "CREATE TABLE t (id integer)", [(1,)])
    read = await batches(source(file, query="SELECT ';' AS mark FROM t; -- all of them\n"))
    assert records(read) == [{"mark": ";"}]


async def test_a_missing_file_is_not_made(file: Path) -> None:
    for url in (str(file), f"file:{file}?mode=rwc"):
        with pytest.raises(FatalError, match="there is no file"):
            await batches(source(url, key="id"))
    assert not file.exists()  # noqa: ASYNC240


@pytest.mark.parametrize(
    ("driver", "remedy"),
    [
        ("snowflake", "pip install adbc-driver-snowflake, or give the path of its library"),
        ("nonesuch", "dbc install nonesuch, or give the path of its library"),
        ("/nonesuch/driver.so", "check the path of its library"),
    ],
)
async def test_a_missing_driver_is_named_with_the_remedy(
    file: Path, driver: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connectors.sql.database.find_spec", lambda _: None)
    with pytest.raises(FatalError, match=f"no ADBC driver '{driver}': {remedy}"):
        await batches(source(file, driver=driver))


@pytest.mark.slow
async def test_a_waiting_query_can_be_cancelled(postgres: Postgres) -> None:
    postgres.start()
    waiting = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND wait_event = 'PgSleep'"
    made = source(postgres.address(), driver="postgresql", query="SELECT pg_sleep(600)::text AS slept")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(batches, made)
            while not postgres.sql(waiting):  # noqa: ASYNC110 - the server is another process
                await anyio.sleep(0.01)
            scope.cancel()
    assert scope.cancelled_caught


class TestServer:
    @pytest.fixture(autouse=True)
    def _table(self, postgres: Postgres) -> None:
        postgres.start()
        postgres.sql(
            "DROP TABLE IF EXISTS t; CREATE TABLE t AS SELECT n AS id, 'n' || n AS name, "
            "timestamptz '2026-01-01 12:00:00.25+02' + n * interval '1 s' AS at, "
            "date '2026-01-01' + n AS day, 1.5::numeric AS amount, true AS paid, 'x'::bytea AS raw "
            "FROM generate_series(1, 20) AS n"
        )

    @pytest.mark.slow
    async def test_values_are_those_of_json(self, postgres: Postgres) -> None:
        read = records(await batches(source(postgres.address(), driver="postgresql", key="id")))
        assert read[0] == {
            "id": 1, "name": "n1", "at": "2026-01-01T10:00:01.250000+00:00", "day": "2026-01-02",
            "amount": "1.5", "paid": True, "raw": "eA==",
        }  # fmt: skip
        assert len(read) == 20

    @pytest.mark.slow
    @pytest.mark.parametrize("column", ["id", "name", "at", "day"])
    async def test_each_row_is_in_one_split(self, postgres: Postgres, column: str) -> None:
        made = source(postgres.address(), driver="postgresql", key=column, split_rows=6)
        read = await batches(made)
        assert len(read) == 4
        assert sorted(record["id"] for record in records(read)) == list(range(1, 21))

    @pytest.mark.slow
    async def test_reading_continues_after_a_time(self, postgres: Postgres) -> None:
        made = source(postgres.address(), driver="postgresql", key="id", incremental="at", page_records=6)
        whole = await batches(made)
        assert keys(whole)[0] == "n/1@2026-01-01 10:00:01.250000Z"
        (split,) = [split async for split in made.splits(made.ctx)]
        position = json.loads(json.dumps(whole[1].position))
        assert records([one async for one in made.read(split, position, made.ctx)]) == records(whole[2:])

    @pytest.mark.slow
    async def test_columns_have_distinct_names(self, postgres: Postgres) -> None:
        made = source(postgres.address(), driver="postgresql", query="SELECT id, id FROM t")
        with pytest.raises(FatalError, match="two columns are called 'id': rename one in `query`"):
            await batches(made)

    async def test_a_refusal_by_a_server_shows_no_password(self, postgres: Postgres) -> None:
        url = postgres.address().replace(PASSWORD_IN_ADDRESS, "n0t-the-one")
        with pytest.raises(FatalError, match=r"authentication failed.*check `url`") as caught:
            await batches(source(url, driver="postgresql"))
        assert "n0t-the-one" not in str(caught.value)
        with pytest.raises(TransientError, match="Connection refused"):
            await batches(source("postgresql://me:s3cret@127.0.0.1:9/db", driver="postgresql"))


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the docs in the current folder, with an empty table."""
    page = Path(__file__).parents[2] / "docs" / "connectors-sql.md"
    (text,) = re.findall(r"^```yaml\n(version: 1\n.*?)^```", page.read_text("utf-8"), re.M | re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(text)
    fill(Path("shop.sqlite"), "CREATE TABLE orders (id integer, updated_at text)")


@pytest.mark.slow
@pytest.mark.usefixtures("documented")
def test_an_incremental_run_reads_what_changed(tmp_path: Path) -> None:
    fill(Path("shop.sqlite"), "INSERT INTO orders VALUES (1, '2026-01-01'), (2, '2026-01-02')")
    assert main(["run", "--quiet"]) == 0
    fill(Path("shop.sqlite"), "UPDATE orders SET updated_at = '2026-01-03' WHERE id = 1")
    assert main(["run", "--quiet"]) == 0
    assert [json.loads(line) for line in (tmp_path / "orders.jsonl").read_text().splitlines()] == [
        {"id": 1, "updated_at": "2026-01-01"},
        {"id": 2, "updated_at": "2026-01-02"},
        {"id": 1, "updated_at": "2026-01-03"},
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("documented")
def test_milliseconds_among_seconds_hide_no_rows(tmp_path: Path) -> None:
    fill(Path("shop.sqlite"), "DROP TABLE orders")
    fill(Path("shop.sqlite"), "CREATE TABLE orders (id integer, updated_at integer)")
    fill(Path("shop.sqlite"), "INSERT INTO orders VALUES (1, 1770000000), (2, 1770000000000)")
    assert main(["run", "--quiet"]) == 0
    fill(Path("shop.sqlite"), "INSERT INTO orders VALUES (3, 1770000003)")
    assert main(["run", "--quiet"]) == 0

    read = [json.loads(line)["id"] for line in (tmp_path / "orders.jsonl").read_text().splitlines()]
    assert read == [1, 2, 3, 2]


async def test_milliseconds_are_no_bookmark_of_a_resumed_run(file: Path) -> None:
    rows = [(1, 1_770_000_000), *((n, 1_770_000_000_000 + n) for n in range(2, 6))]
    fill(file, "CREATE TABLE t (id integer, at integer)", rows)
    made = source(file, key="id", incremental="at", page_records=1)
    whole = await batches(made)
    assert [bool(batch.bookmarks) for batch in whole] == [True, False, False, False, False]

    position = json.loads(json.dumps(whole[2].position))
    rest = await batches(made, position)
    assert records(rest) == records(whole[3:])
    assert not any(batch.bookmarks for batch in rest)
    # as stored by earlier versions
    assert records(await batches(made, position[:2])) == records(rest)


@pytest.mark.slow
@pytest.mark.usefixtures("documented")
def test_rows_later_than_the_clock_hide_no_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(Path("shop.sqlite"), "INSERT INTO orders VALUES (1, '2026-01-01'), (2, '2999-01-02')")
    assert main(["run"]) == 0
    assert "reads records again in each run whose `updated_at` is later" in capsys.readouterr().out
    fill(Path("shop.sqlite"), "INSERT INTO orders VALUES (3, '2026-01-03')")
    assert main(["run", "--quiet"]) == 0
    read = [json.loads(line)["id"] for line in (tmp_path / "orders.jsonl").read_text().splitlines()]
    assert read == [1, 2, 3, 2]
    with monkeypatch.context() as patched:  # as versions that stored such a value
        patched.setattr("connectors.tables.source.is_future", lambda *_: False)
        assert main(["run", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["run"]) == 0
    said = capsys.readouterr().out
    assert "continues after a `updated_at` later than the clock" in said
    assert "python -m engine bookmarks reset orders" in said


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 1 AS id WHERE 1 = ?", "`query` cannot have parameters of the database: write the values"),
        (
            "SELECT 1 AS id, CAST(x'ff53454352' AS TEXT) AS v",
            "column 'v': a value of type string cannot be read",
        ),
    ],
)
async def test_a_query_that_cannot_be_read_says_why(file: Path, query: str, message: str) -> None:
    fill(file, "CREATE TABLE t (id integer)")
    with pytest.raises(FatalError) as caught:
        await batches(source(file, query=query))
    assert message in str(caught.value)
    assert "SEC" not in str(caught.value)
