"""Tables of a real PostgreSQL server: made, appended, merged, replaced, resumed, read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from connectors.postgres import PostgresConnection, PostgresSink, PostgresSinkParams, PostgresSource
from connectors.postgres.source import PostgresSourceParams
from engine.cli import main
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import BatchError, FatalError, TransientError
from engine.testing import ScriptedClock
from tests.servers.postgres import PASSWORD, Postgres


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Postgres]:
    postgres.start()
    postgres.sql("DROP SCHEMA IF EXISTS tables CASCADE; CREATE SCHEMA tables")
    yield postgres
    postgres.start()


def sink(server: Postgres, run: str = "r1", table: str = "tables.t", **params: Any) -> PostgresSink:
    connection = PostgresConnection(url=server.address())
    made = PostgresSink(PostgresSinkParams(table=table, **params), connection)
    made.ctx = Context("p", "n", run)
    return made


def batch_of(records: Sequence[Any], start: int = 0, *, replay: bool = False) -> Batch:
    batch = Batch(list(records), KeyRange("k/", start, start + len(records)))
    batch.origins = [(SplitTracker("s", replay=replay).begin(len(records), None), len(records))]
    return batch


def rows(server: Postgres, query: str = "SELECT * FROM tables.t ORDER BY 1") -> list[Any]:
    return server.sql(query)


async def write(server: Postgres, *pages: Sequence[Any], **params: Any) -> dict[int, str]:
    """Returns the kinds of failures of the last page."""
    failures: dict[int, str] = {}
    async with sink(server, **params) as opened:
        start = 0
        for page in pages:
            try:
                await opened.write(batch_of(page, start))
            except BatchError as error:
                failures = {index: one.kind for index, one in error.failures.items()}
            start += len(page)
        await opened.run_completed()
    return failures


async def test_a_table_is_made_and_gets_columns_as_they_come(server: Postgres) -> None:
    failures = await write(
        server, [{"id": 1, "n": 1}], [{"id": 2, "n": 1.5, "new": {"a": 1}, "t": "a\tb\\\n"}]
    )

    assert failures == {}
    assert rows(server) == [(1, 1.0, None, None), (2, 1.5, {"a": 1}, "a\tb\\\n")]


async def test_rows_that_are_refused_fail_alone(server: Postgres) -> None:
    server.sql("CREATE TABLE tables.t (id int UNIQUE, n numeric CHECK (n > 0), name text NOT NULL, day date)")
    page: list[dict[str, Any]] = [
        {"id": number, "n": 1, "name": "x", "day": "2026-01-01"} for number in range(20)
    ]
    page[3] |= {"n": -1}
    page[5] |= {"name": "a\0b"}
    page[7] |= {"id": 2**40}
    page[9] |= {"day": "secret"}
    page[11] |= {"id": 2}
    page[13] |= {"name": None}
    page[15] |= {"name": "\ud800"}

    failures = await write(server, page)

    assert failures == {
        3: "ConstraintViolated", 5: "ValueRefused", 7: "WrongType", 9: "ValueRefused",
        11: "ConstraintViolated", 13: "ConstraintViolated", 15: "ValueRefused",
    }  # fmt: skip
    assert len(rows(server)) == 13


async def test_messages_name_the_column_and_hold_no_values(server: Postgres) -> None:
    server.sql("CREATE TABLE tables.t (id int, day date)")
    async with sink(server) as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of([{"id": 1, "day": 'se"cret'}]))
    assert "PostgreSQL refused the row: invalid input syntax for type date: … (column day)" in str(
        caught.value
    )


async def test_a_merge_updates_the_fields_that_a_record_has(server: Postgres) -> None:
    await write(server, [{"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 2, "b": 2}], mode="merge", key="id")
    page = [{"id": 1, "a": 9}, {"id": 3, "a": 3}, {"id": 1, "b": 8}, {"id": 1, "a": 7}, {"a": 5}]
    failures = await write(server, page, mode="merge", key="id", run="r2")

    assert failures == {4: "MissingKey"}
    assert rows(server, "SELECT id, a, b FROM tables.t ORDER BY id") == [(1, 7, 8), (2, 2, 2), (3, 3, None)]


async def test_a_merge_without_an_index_says_how_to_make_it(server: Postgres) -> None:
    server.sql("CREATE TABLE tables.t (id int)")
    with pytest.raises(FatalError, match=r"CREATE UNIQUE INDEX ON tables\.t \(id\)"):
        await write(server, [{"id": 1}], mode="merge", key="id")


async def test_a_replacing_run_shows_its_rows_when_it_is_complete(server: Postgres) -> None:
    await write(server, [{"id": 1}, {"id": 2}])
    server.sql("CREATE VIEW tables.v AS SELECT * FROM tables.t")
    async with sink(server, "r2", mode="replace") as opened:
        await opened.write(batch_of([{"id": 7, "new": "x"}]))
    assert rows(server) == [(1,), (2,)]
    async with sink(server, "r2", mode="replace") as resumed:
        await resumed.write(batch_of([{"id": 7, "new": "x"}, {"id": 8, "new": "y"}], replay=True))
        await resumed.run_completed()
        await resumed.run_completed()
    assert rows(server) == [(7, "x"), (8, "y")]
    assert rows(server, "SELECT * FROM tables.v ORDER BY 1") == [(7,), (8,)]
    assert len(rows(server, "SELECT 1 FROM pg_tables WHERE schemaname = 'tables'")) == 2


async def test_an_outage_is_transient_and_the_rows_arrive_once(server: Postgres) -> None:
    async with sink(server) as opened:
        await opened.write(batch_of([{"id": 1}]))
        server.stop()
        with pytest.raises(TransientError):
            await opened.write(batch_of([{"id": 2}], 1))
        server.start()
        await opened.write(batch_of([{"id": 2}], 1))
    assert rows(server) == [(1,), (2,)]


async def test_an_outage_at_the_end_of_a_run_is_waited_for(server: Postgres) -> None:
    class Clock(ScriptedClock):
        async def sleep(self, seconds: float) -> None:
            server.start()

    async with sink(server, mode="replace") as opened, sink(server, table="tables.other") as added:
        opened.ctx.clock = Clock()
        await opened.write(batch_of([{"id": 1}]))
        await added.write(batch_of([{"id": 2}]))
        server.stop()
        await added.run_completed()  # its rows are there already
        await opened.run_completed()
    assert rows(server) == [(1,)]


async def test_a_commit_that_was_taken_for_lost_is_not_repeated(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sink(server) as opened:
        await opened.write(batch_of([{"id": 1}]))
        committed = opened._ledger.committed

        def lost(entries: object) -> None:
            monkeypatch.setattr(opened._ledger, "committed", committed)
            raise TransientError("the connection broke during COMMIT")

        monkeypatch.setattr(opened._ledger, "committed", lost)
        with pytest.raises(TransientError):
            await opened.write(batch_of([{"id": 2}], 1))
        await opened.write(batch_of([{"id": 2}], 1))
    assert rows(server) == [(1,), (2,)]


async def test_two_processes_at_one_split_add_each_record_once(server: Postgres) -> None:
    async with sink(server) as taken_for_dead, sink(server) as other:
        await taken_for_dead.write(batch_of([{"id": 1}]))
        await other.write(batch_of([{"id": 1}, {"id": 2}], replay=True))
        await taken_for_dead.write(batch_of([{"id": 2}, {"id": 3}], 1))
    assert rows(server) == [(1,), (2,), (3,)]


async def test_connections_that_cannot_work_say_what_to_mend(server: Postgres) -> None:
    address = server.address()
    wrong = [
        (address.replace("s3cret", "wrong"), FatalError, "password authentication failed"),
        (server.address("nothing"), FatalError, 'database "nothing" does not exist'),
        (server.address(port=9), TransientError, "cannot connect to postgresql://127.0.0.1:9/odw"),
        ("postgresql://odw@127.0.0.1/odw?no_such=1", FatalError, "%40 for @"),
    ]
    for url, kind, message in wrong:
        source = PostgresSource(PostgresSourceParams(table="tables.t", key="id"), PostgresConnection(url=url))
        with pytest.raises(kind) as caught:
            async with source, aclosing(source.extract()) as pages:
                await anext(pages)
        assert message in str(caught.value)
        assert "wrong" not in str(caught.value)
        assert PASSWORD not in str(caught.value)


async def test_the_password_may_stand_beside_the_url(server: Postgres) -> None:
    bare = f"postgresql://odw@127.0.0.1:{server.port}/odw"
    connection = PostgresConnection(url=bare, password=SecretStr(PASSWORD))
    server.sql("CREATE TABLE tables.t AS SELECT 1 AS id")

    assert await read(server, connection=connection, table="tables.t") == [{"id": 1}]


async def read(server: Postgres, connection: PostgresConnection | None = None, **params: Any) -> list[Any]:
    source = PostgresSource(
        PostgresSourceParams(**params), connection or PostgresConnection(url=server.address())
    )
    async with source, aclosing(source.extract()) as pages:
        return [record async for page in pages for record in page]


async def test_rows_are_read_as_json_has_them(server: Postgres) -> None:
    query = (
        "SELECT 1 AS id, timestamptz '2026-01-01 12:00:00.5+02' AS at, date '2026-01-01' AS day, "
        "1.25 AS amount, "
        """'{"a": [1]}'::jsonb AS more, array[1.5] AS list, 'a'::bytea AS bytes, '50%' AS text """
        "WHERE 'ab' LIKE 'a%'"
    )
    expected = {
        "id": 1, "at": "2026-01-01T10:00:00.500000+00:00", "day": "2026-01-01", "amount": 1.25,
        "more": {"a": [1]}, "list": [1.5], "bytes": "YQ==", "text": "50%",
    }  # fmt: skip
    assert await read(server, query=query) == [expected]
    assert await read(server, query=query + ";", key="id") == [expected]


async def test_splits_cover_every_row_once_in_any_order_of_text(server: Postgres) -> None:
    server.sql(
        "CREATE TABLE tables.t AS SELECT * FROM unnest(%s::text[]) AS id",
        [["a", "B", "ä", "Z", "10", "9", "_"]],
    )
    source = PostgresSource(
        PostgresSourceParams(table="tables.t", key="id", split_rows=2, page_records=1),
        PostgresConnection(url=server.address()),
    )
    ctx = Context()
    async with source:
        async with aclosing(source.splits(ctx)) as listing:  # type: ignore[type-var]
            splits = [split async for split in listing]
    assert len(splits) == 4
    ids = [record["id"] for record in await read(server, table="tables.t", key="id", split_rows=2)]
    assert sorted(ids) == sorted(["a", "B", "ä", "Z", "10", "9", "_"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"table": "tables.t", "key": "no"}, "no column 'no'; they have id, n"),
        ({"table": "tables.t", "key": "n"}, "names more than one row"),
        ({"query": "SELECT nullif(id, 5) AS id FROM tables.t", "key": "id"}, "has no value in some rows"),
        ({"table": "tables.missing"}, "does not exist"),
        ({"query": "SELEC 1"}, "syntax error"),
    ],
)
async def test_what_cannot_be_read_says_why(server: Postgres, params: dict[str, Any], message: str) -> None:
    server.sql("CREATE TABLE tables.t AS SELECT n AS id, 1 AS n FROM generate_series(1, 9) AS n")
    source = PostgresSource(PostgresSourceParams(**params), PostgresConnection(url=server.address()))
    with pytest.raises(FatalError, match=message):
        async with source:
            async with aclosing(source.splits(Context())) as listing:  # type: ignore[type-var]
                splits = [split async for split in listing]
            async with aclosing(source.read(splits[0], None, Context())) as batches:
                async for _ in batches:
                    pass


CHANGED = """\
version: 1
connections:
  db: {url: "${DATABASE_URL}"}
pipelines:
  changed:
    nodes:
      read: {source: postgres, with: {connection: db, table: tables.t, key: id, incremental: changed}}
      keep: {sink: jsonl, with: {path: out.jsonl}}
"""


def test_an_incremental_source_reads_only_what_changed(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", server.address())
    (tmp_path / "pipelines.yaml").write_text(CHANGED)
    server.sql("CREATE TABLE tables.t AS SELECT n AS id, n / 2 AS changed FROM generate_series(1, 6) AS n")

    def ids() -> list[int]:
        assert main(["run", "--quiet"]) == 0
        out = tmp_path / "out.jsonl"
        lines = out.read_text().splitlines() if out.exists() else []
        out.unlink(missing_ok=True)
        return [json.loads(line)["id"] for line in lines]

    assert ids() == [1, 2, 3, 4, 5, 6]
    assert ids() == []
    server.sql("UPDATE tables.t SET changed = 9 WHERE id = 2; INSERT INTO tables.t VALUES (7, 3), (8, NULL)")
    assert ids() == [7, 2]


def test_the_examples_of_the_page_load_and_read(
    server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", server.address())
    server.sql("DROP TABLE IF EXISTS invoices")
    page = Path(__file__).parents[2] / "docs" / "connectors-postgres.md"
    load, read = re.findall(
        r"^```yaml\n(version: 1\n.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = [{"id": number, "amount": number / 2, "country": "DE"} for number in range(20)]
    (tmp_path / "invoices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for text in (load, load, read):
        (tmp_path / "pipelines.yaml").write_text(text)
        assert main(["run", "--quiet", "--verify"]) == 0
    assert [json.loads(line) for line in (tmp_path / "large.jsonl").read_text().splitlines()] == lines[11:]
    server.sql("DROP TABLE invoices")


async def test_doctor_and_plan_can_ask_without_making_anything(server: Postgres) -> None:
    assert (await sink(server).check_connection()).startswith("logged in as ")
    assert await sink(server).describe_target() == "table tables.t, mode append: not there yet"
    async with sink(server) as made:
        await made.write(batch_of([{"id": 1, "name": "a"}]))

    assert await sink(server).describe_target() == "table tables.t, mode append: 1 rows, 2 columns"


async def test_a_wrong_password_is_told_to_doctor(server: Postgres) -> None:
    connection = PostgresConnection(url=server.address(), password=SecretStr("not the one"))
    made = PostgresSink(PostgresSinkParams(table="tables.t"), connection)

    with pytest.raises(FatalError, match="refuses the connection") as caught:
        await made.check_connection()
    assert "not the one" not in str(caught.value)


async def test_a_row_that_changes_between_attempts_is_another_record(server: Postgres) -> None:
    server.sql("CREATE TABLE tables.t AS SELECT n AS id, n AS changed FROM generate_series(1, 4) AS n")
    params = PostgresSourceParams(table="tables.t", key="id", incremental="changed", page_records=2)
    source = PostgresSource(params, PostgresConnection(url=server.address()))
    ctx = Context("p", "n", "r1")
    (split,) = [one async for one in source.splits(ctx)]
    async with aclosing(source.read(split, None, ctx)) as batches:
        first = await anext(batches)
    server.sql("UPDATE tables.t SET changed = 9 WHERE id = 1")
    async with aclosing(source.read(split, first.position, ctx)) as batches:
        later = [batch async for batch in batches]

    assert [record["id"] for batch in later for record in batch.records] == [3, 4, 1]
    keys = [key for batch in (first, *later) for key in batch.keys.to_list()]
    assert len(set(keys)) == 5


async def test_what_is_left_of_a_run_never_replaces_a_whole_one(server: Postgres) -> None:
    async with sink(server, "r1", mode="replace") as interrupted:
        await interrupted.write(batch_of([{"id": 1}, {"id": 2}]))
    await write(server, [{"id": 1}, {"id": 2}, {"id": 3}], mode="replace", run="r2")

    async with sink(server, "r1", mode="replace") as resumed:
        await resumed.write(batch_of([{"id": 3}], 2))
        with pytest.raises(FatalError, match="1 of the 3 rows of this run are still there"):
            await resumed.run_completed()
    assert rows(server, "SELECT id FROM tables.t ORDER BY id") == [(1,), (2,), (3,)]
