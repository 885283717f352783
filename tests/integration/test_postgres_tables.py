"""Tables of a real PostgreSQL server; behaviour shared with DuckDB is in test_tables.py."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Iterator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from pydantic import SecretStr

from connectors.postgres import (
    PostgresConnection,
    PostgresSink,
    PostgresSinkParams,
    PostgresSource,
    PostgresSourceParams,
)
from connectors.postgres.database import connect
from connectors.tables.source import Part
from engine.cli import main
from engine.contract.component import Context
from engine.contract.split import Split
from engine.errors import BatchError, FatalError, TransientError
from tests.servers.postgres import PASSWORD, Postgres
from tests.table_targets import PostgresTarget, batch_of


@pytest.fixture
def target(postgres: Postgres) -> Iterator[PostgresTarget]:
    yield PostgresTarget(postgres)
    postgres.start()


@pytest.mark.slow
async def test_rows_that_are_refused_fail_alone(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int UNIQUE, n numeric CHECK (n > 0), name text NOT NULL, day date)")
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

    failures = await target.write(page)

    assert failures == {
        3: "ConstraintViolated", 5: "ValueRefused", 7: "WrongType", 9: "ValueRefused",
        11: "ConstraintViolated", 13: "ConstraintViolated", 15: "ValueRefused",
    }  # fmt: skip
    assert len(target.rows()) == 13


@pytest.mark.slow
async def test_rows_replace_others_under_all_constraints(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.country (code text PRIMARY KEY)")
    target.sql("INSERT INTO tables.country VALUES ('DE')")
    target.sql(
        "CREATE TABLE tables.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int UNIQUE, "
        "twice int GENERATED ALWAYS AS (n * 2) STORED, code text REFERENCES tables.country, "
        "parent int REFERENCES tables.t, at timestamptz NOT NULL DEFAULT '2026-01-01Z')"
    )
    target.sql("CREATE INDEX ON tables.t (code)")
    await target.write([{"n": 1}])
    page = [{"n": 2, "code": "DE"}, {"n": 3, "code": "XX"}, {"n": 2}, {"n": 5, "new": 1.5}, {"n": 2**40}]

    failures = await target.write(page, mode="replace", run="r2")

    assert failures == {1: "ConstraintViolated", 2: "ConstraintViolated", 4: "WrongType"}
    assert target.rows("n, twice, code, new") == [(2, 4, "DE", None), (5, 10, None, 1.5)]
    await target.write([{"n": 6}], run="r3")
    assert len(set(target.rows("id"))) == 3


@pytest.mark.slow
async def test_rows_that_cannot_replace_others_name_the_remedy(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int PRIMARY KEY, parent int REFERENCES tables.t)")
    with pytest.raises(FatalError, match="drop such records before the sink, or change the table, then st"):
        await target.write([{"id": 1, "parent": 2}], mode="replace")
    assert await target.write([{"id": 1, "parent": 2}, {"id": 2}], mode="replace", run="r2") == {}


GRANT_ALL = "GRANT ALL ON SCHEMA tables TO guest; GRANT ALL ON ALL TABLES IN SCHEMA tables TO guest"
NOOP = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
BEFORE_TRUNCATE = "BEFORE TRUNCATE ON tables.t EXECUTE FUNCTION tables.f()"
RAISES = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION $$no$$; END'"
RAISES_A_CHECK = RAISES.replace("$$no$$", "$$no$$ USING ERRCODE = $$check_violation$$")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("CREATE TABLE tables.child (t int REFERENCES tables.t)", "tables.child refers to it"),
        ("CREATE TABLE tables.child () INHERITS (tables.t)", "tables.child inherits from it"),
        ("CREATE RULE nothing AS ON INSERT TO tables.t DO INSTEAD NOTHING", "its rule nothing"),
        ("ALTER TABLE tables.t RENAME TO u; CREATE VIEW tables.t AS SELECT * FROM tables.u", "it is a view"),
        (
            f"CREATE FUNCTION tables.f() {RAISES}; CREATE TRIGGER g {BEFORE_TRUNCATE}",
            "one of its triggers raised",
        ),
        (
            f"CREATE FUNCTION tables.f() {RAISES_A_CHECK}; CREATE TRIGGER g {BEFORE_TRUNCATE}",
            "one of its triggers raised",
        ),
        (
            f"ALTER TABLE tables.t ENABLE ROW LEVEL SECURITY; {GRANT_ALL}",
            "its row-level security applies to the user guest",
        ),
    ],
    ids=["reference", "child", "rule", "view", "trigger", "check of a trigger", "row-level security"],
)
async def test_a_table_that_cannot_be_replaced_is_refused_at_once(
    target: PostgresTarget, more: str, reason: str
) -> None:
    target.sql("CREATE TABLE tables.t (id int PRIMARY KEY, n int); INSERT INTO tables.t VALUES (1, 1)")
    target.sql(f"DROP ROLE IF EXISTS guest; CREATE ROLE guest; {more}")
    sink = target.sink(mode="replace")
    if "guest" in more:
        sink.connection = PostgresConnection(url=f"{target.server.address()}?options=-crole%3Dguest")

    with pytest.raises(FatalError, match=f"`mode: replace` cannot exchange the rows of tables.t: {reason}"):
        async with sink:
            pass

    target.sql("DROP OWNED BY guest; DROP ROLE guest")
    assert target.rows() == [(1, 1)]


@pytest.mark.slow
async def test_readers_and_a_rehearsal_do_not_wait_for_long(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int); INSERT INTO tables.t VALUES (1)")

    with psycopg.connect(target.server.address()) as reader:
        reader.execute("SELECT * FROM tables.t")  # holds its lock until the transaction ends
        with anyio.fail_after(20):
            async with target.sink(mode="replace") as sink:
                await sink.write(batch_of([{"id": 2, "more": 1}]))
                reader.execute("SET lock_timeout = '1s'")
                assert reader.execute("SELECT * FROM tables.t").fetchall() == [(1,)]
                reader.commit()
                await sink._close()  # the next connection rehearses with the lock
                await sink.write(batch_of([{"id": 3, "last": 1}], 1))
                assert reader.execute("SELECT * FROM tables.t").fetchall() == [(1,)]
                reader.commit()
                await sink.run_completed()

    assert target.rows("id") == [(2,), (3,)]


async def test_what_depends_on_a_column_is_named_before_rows_are_written(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (n int); CREATE VIEW tables.v AS SELECT n FROM tables.t")

    with pytest.raises(FatalError, match=r"columns 'n' of tables.t: .*tables\.v depends .*; with `evolve"):
        async with target.sink(mode="replace") as sink:
            await sink.write(batch_of([{"n": 1.5}]))


@pytest.mark.slow
async def test_a_row_without_a_partition_cannot_replace_others(target: PostgresTarget) -> None:
    target.sql(
        "CREATE TABLE tables.t (id int PRIMARY KEY, n int REFERENCES tables.t) PARTITION BY RANGE (id)"
    )
    target.sql("CREATE TABLE tables.p PARTITION OF tables.t FOR VALUES FROM (0) TO (6)")
    page = [{"id": 5, "n": 5}, {"id": 6, "n": 5}]

    assert await target.write(page, mode="replace") == {1: "ConstraintViolated"}
    assert target.rows() == [(5, 5)]


@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_rows_that_a_trigger_leaves_out_are_counted(target: PostgresTarget, mode: str) -> None:
    target.sql(f"CREATE TABLE tables.t (n int); CREATE FUNCTION tables.f() {NOOP}")
    target.sql(
        "CREATE TRIGGER g BEFORE INSERT ON tables.t FOR EACH ROW WHEN (NEW.n = 2) EXECUTE FUNCTION tables.f()"
    )

    async with target.sink(mode=mode) as sink:
        await sink.write(batch_of([{"n": 1}, {"n": 2}]))
        await sink.run_completed()

    assert sink.ctx.aggregate == {"skipped: left out by a trigger of tables.t": 1}
    assert target.rows() == [(1,)]


async def test_messages_name_the_column_and_hold_no_values(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int, day date)")
    async with target.sink() as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of([{"id": 1, "day": 'se"cret'}]))
    assert "PostgreSQL refused the row: invalid input syntax for type date: … (column day)" in str(
        caught.value
    )


async def test_a_row_that_a_trigger_refuses_fails_alone(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int, n int)")
    target.sql(
        "CREATE OR REPLACE FUNCTION tables.positive() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN IF new.n < 0 THEN RAISE EXCEPTION 'secret %', new.n; END IF; RETURN new; END$$"
    )
    target.sql(
        "CREATE TRIGGER positive BEFORE INSERT ON tables.t FOR EACH ROW EXECUTE FUNCTION tables.positive()"
    )
    async with target.sink() as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of([{"id": 1, "n": 1}, {"id": 2, "n": -5}]))
    assert list(caught.value.failures) == [1]
    assert "tables.positive" in str(caught.value.failures[1])
    assert "secret" not in str(caught.value.failures[1])
    assert target.rows() == [(1, 1)]


async def test_a_generated_column_is_to_be_left_out(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int, twice int GENERATED ALWAYS AS (id * 2) STORED)")
    with pytest.raises(FatalError, match=r'"twice" is a generated column; leave the field out .*drop: \[…\]'):
        await target.write([{"id": 1, "twice": 2}])


async def test_queries_end_with_a_comment_and_have_distinct_names(target: PostgresTarget) -> None:
    assert await target.read(query="SELECT 1 AS a -- one") == [{"a": 1}]
    with pytest.raises(FatalError, match="two columns are called 'a': rename one in `query`"):
        await target.read(query="SELECT 1 AS a, 2 AS a")


async def test_a_merge_without_an_index_says_how_to_make_it(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int)")
    with pytest.raises(FatalError, match=r"CREATE UNIQUE INDEX ON tables\.t \(id\)"):
        await target.write([{"id": 1}], mode="merge", key="id")


async def test_a_commit_that_was_considered_lost_is_not_repeated(
    target: PostgresTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with target.sink() as opened:
        await opened.write(batch_of([{"id": 1}]))
        committed = opened._ledger.committed

        def lost(entries: object) -> None:
            monkeypatch.setattr(opened._ledger, "committed", committed)
            raise TransientError("the connection broke during COMMIT")

        monkeypatch.setattr(opened._ledger, "committed", lost)
        with pytest.raises(TransientError):
            await opened.write(batch_of([{"id": 2}], 1))
        await opened.write(batch_of([{"id": 2}], 1))
    assert target.rows() == [(1,), (2,)]


@pytest.mark.slow
async def test_two_processes_at_one_split_add_each_record_once(target: PostgresTarget) -> None:
    async with target.sink() as taken_for_dead, target.sink() as other:
        await taken_for_dead.write(batch_of([{"id": 1}]))
        await other.write(batch_of([{"id": 1}, {"id": 2}], replay=True))
        await taken_for_dead.write(batch_of([{"id": 2}, {"id": 3}], 1))
    assert target.rows() == [(1,), (2,), (3,)]


async def test_connections_that_cannot_work_name_the_remedy(target: PostgresTarget) -> None:
    address = target.server.address()
    wrong = [
        (address.replace("s3cret", "wrong"), FatalError, "password authentication failed"),
        (target.server.address("nothing"), FatalError, 'database "nothing" does not exist'),
        (target.server.address(port=9), TransientError, "cannot connect to postgresql://127.0.0.1:9/odw"),
        (
            f"{address}?sslmode=require",
            FatalError,
            "does not support SSL, but SSL was required; check the opt",
        ),
        (f"{address}?sslmode=sometimes", FatalError, 'invalid sslmode value: "sometimes"; check the options'),
        (f"{address}?connect_timeout=x", FatalError, "check the options in `url`"),
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


async def test_the_password_may_stand_beside_the_url(target: PostgresTarget) -> None:
    bare = f"postgresql://odw@127.0.0.1:{target.server.port}/odw"
    connection = PostgresConnection(url=bare, password=SecretStr(PASSWORD))
    target.sql("CREATE TABLE tables.t AS SELECT 1 AS id")

    source = PostgresSource(PostgresSourceParams(table="tables.t"), connection)
    async with source, aclosing(source.extract()) as pages:
        assert [page async for page in pages] == [[{"id": 1}]]


async def test_rows_are_read_as_json_has_them(target: PostgresTarget) -> None:
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
    assert await target.read(query=query) == [expected]
    assert await target.read(query=query + ";", key="id") == [expected]


async def test_arrays_and_bytes_are_written_as_they_are_read(target: PostgresTarget) -> None:
    target.sql("CREATE TYPE tables.mood AS ENUM ('sad', 'so so'); CREATE DOMAIN tables.positive AS int")
    target.sql(
        "CREATE TABLE tables.t (id int, texts text[], matrix float8[], moods tables.mood[], docs jsonb[], "
        "raw bytea, more tables.positive[], days date[], raws bytea[], costs numeric(9,2)[], "
        "words varchar(9)[])"
    )
    row = {
        "id": 1, "texts": ["a", 'b"c', None, "{x}, \\\\\n", ""], "matrix": [[1.0, 2.5], [3.0, 4.0]],
        "moods": ["so so"], "docs": [[1, "x"], {"a": None}], "raw": "3q2+7w==", "more": [2],
        "days": ["2026-01-01"], "raws": ["3q2+7w==", None], "costs": [1.5, 2.0], "words": ["a,b", "true"],
    }  # fmt: skip

    failures = await target.write(
        [
            {**row, "words": ["a,b", True]}, {"id": 2, "texts": [], "raw": None},
            {"id": 3, "raw": "not Base64"}, {"id": 4, "raws": ["not Base64"]},
        ]
    )  # fmt: skip

    assert failures == {2: "WrongType", 3: "WrongType"}
    first, second = await target.read(query="SELECT * FROM tables.t ORDER BY id")
    assert first == row
    assert second == {**dict.fromkeys(row), "id": 2, "texts": []}


async def test_times_beyond_the_calendar_of_python_stay_as_they_are(target: PostgresTarget) -> None:
    query = (
        "SELECT date 'infinity' AS day, timestamp '-infinity' AS since, timestamptz 'infinity' AS until, "
        "date '0044-03-15 BC' AS ides, time '24:00' AS midnight, timestamp '2026-01-01 12:00' AS at, "
        "timetz '12:30+02' AS local"
    )
    (row,) = await target.read(query=query)
    assert row == {
        "day": "infinity", "since": "-infinity", "until": "infinity", "ides": "0044-03-15 BC",
        "midnight": "24:00:00", "at": "2026-01-01T12:00:00", "local": "12:30:00+02:00",
    }  # fmt: skip


async def test_nothing_is_new_after_an_infinite_value(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t AS SELECT 1 AS id, timestamptz 'infinity' AS changed")
    with pytest.raises(FatalError, match="'changed' is infinite in some rows"):
        await target.read(table="tables.t", key="id", incremental="changed")


async def test_splits_cover_every_row_once_in_any_order_of_text(target: PostgresTarget) -> None:
    target.sql(
        "CREATE TABLE tables.t AS SELECT * FROM unnest(%s::text[]) AS id",
        [["a", "B", "ä", "Z", "10", "9", "_"]],
    )
    source = target.source(table="tables.t", key="id", split_rows=2, page_records=1)
    ctx = Context()
    async with source:
        async with aclosing(source.splits(ctx)) as listing:  # type: ignore[type-var]
            splits = [split async for split in listing]
    assert len(splits) == 4
    ids = [record["id"] for record in await target.read(table="tables.t", key="id", split_rows=2)]
    assert sorted(ids) == sorted(["a", "B", "ä", "Z", "10", "9", "_"])


@pytest.mark.parametrize(("kind", "notes"), [("date", 1), ("timestamptz", 0), ("int", 0)])
async def test_a_column_of_days_is_noted_as_too_coarse(target: PostgresTarget, kind: str, notes: int) -> None:
    value = "1" if kind == "int" else "'2026-01-01'"
    target.sql(f"CREATE TABLE tables.t AS SELECT 1 AS id, {value}::{kind} AS changed")
    source = target.source(table="tables.t", key="id", incremental="changed")
    async with source, aclosing(source.read(Split("s", asdict(Part())), None, source.ctx)) as batches:
        assert [batch.records[0]["id"] async for batch in batches] == [1]
    found = [name for name in source.ctx.aggregate if "`changed`, which holds days" in name]
    assert len(found) == notes


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


@pytest.mark.slow
def test_an_incremental_source_reads_only_what_changed(
    target: PostgresTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", target.server.address())
    (tmp_path / "pipelines.yaml").write_text(CHANGED)
    target.sql("CREATE TABLE tables.t AS SELECT n AS id, n / 2 AS changed FROM generate_series(1, 6) AS n")

    def ids() -> list[int]:
        assert main(["run", "--quiet"]) == 0
        out = tmp_path / "out.jsonl"
        lines = out.read_text().splitlines() if out.exists() else []
        out.unlink(missing_ok=True)
        return [json.loads(line)["id"] for line in lines]

    assert ids() == [1, 2, 3, 4, 5, 6]
    assert ids() == []
    target.sql("UPDATE tables.t SET changed = 9 WHERE id = 2; INSERT INTO tables.t VALUES (7, 3), (8, NULL)")
    assert ids() == [7, 2]


@pytest.mark.slow
def test_the_examples_of_the_page_load_and_read(
    target: PostgresTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", target.server.address())
    target.sql("DROP TABLE IF EXISTS invoices")
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
    target.sql("DROP TABLE invoices")


async def test_doctor_and_plan_can_ask_without_making_anything(target: PostgresTarget) -> None:
    assert (await target.sink().check_connection()).startswith("logged in as ")
    assert await target.sink().describe_target() == "table tables.t, mode append: not there yet"
    async with target.sink() as made:
        await made.write(batch_of([{"id": 1, "name": "a"}]))

    assert await target.sink().describe_target() == "table tables.t, mode append: 1 rows, 2 columns"


async def test_a_wrong_password_is_told_to_doctor(target: PostgresTarget) -> None:
    connection = PostgresConnection(url=target.server.address(), password=SecretStr("not the one"))
    made = PostgresSink(PostgresSinkParams(table="tables.t"), connection)

    with pytest.raises(FatalError, match="refuses the connection") as caught:
        await made.check_connection()
    assert "not the one" not in str(caught.value)


@pytest.mark.parametrize("params", [{}, {"mode": "merge", "key": "id"}])
async def test_refused_rows_need_no_new_connections(
    target: PostgresTarget, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    target.sql("CREATE TABLE tables.t (id int PRIMARY KEY, n int CHECK (n > 0))")
    opened: list[PostgresConnection] = []

    def counted(connection: PostgresConnection) -> Awaitable[Any]:
        opened.append(connection)
        return connect(connection)

    monkeypatch.setattr("connectors.postgres.sink.connect", counted)
    rows = [{"id": number, "n": number - 3} for number in range(8)]
    assert len(await target.write(rows, **params)) == 4
    assert [row[0] for row in target.rows()] == [4, 5, 6, 7]
    assert len(opened) == 1


async def test_users_may_write_beside_the_owner_of_the_entries(target: PostgresTarget) -> None:
    await target.write([{"id": 1}])
    target.sql(
        "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'x'; "
        "GRANT USAGE ON SCHEMA tables TO guest; "
        "GRANT SELECT, INSERT, DELETE ON tables.t, tables._odw_batches TO guest"
    )
    try:
        url = f"postgresql://guest:x@{target.server.address().rpartition('@')[2]}"
        guest = PostgresSink(PostgresSinkParams(table="tables.t"), PostgresConnection(url=url))
        guest.ctx = Context("p", "n", "r2")
        async with guest:
            await guest.write(batch_of([{"id": 2}]))
            await guest.run_completed()
        assert target.rows() == [(1,), (2,)]
    finally:
        target.sql("DROP OWNED BY guest; DROP ROLE guest")


async def test_a_key_that_is_always_generated_can_be_merged(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)")
    assert await target.write([{"id": 7, "n": 1}], [{"id": 7, "n": 2}], mode="merge", key="id") == {}
    assert target.rows() == [(7, 2)]


async def test_numbers_as_text_do_not_tell_what_is_new(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t AS SELECT 1 AS id, '9'::varchar AS changed")
    source = target.source(table="tables.t", key="id", incremental="changed")
    with pytest.raises(FatalError, match="'changed' has numbers as text"):
        await anext(source.extract())


async def test_a_row_that_changes_between_attempts_is_another_record(target: PostgresTarget) -> None:
    target.sql("CREATE TABLE tables.t AS SELECT n AS id, n AS changed FROM generate_series(1, 4) AS n")
    source = target.source(table="tables.t", key="id", incremental="changed", page_records=2)
    ctx = Context("p", "n", "r1")
    (split,) = [one async for one in source.splits(ctx)]
    async with aclosing(source.read(split, None, ctx)) as batches:
        first = await anext(batches)
    target.sql("UPDATE tables.t SET changed = 9 WHERE id = 1")
    async with aclosing(source.read(split, first.position, ctx)) as batches:
        later = [batch async for batch in batches]

    assert [record["id"] for batch in later for record in batch.records] == [3, 4, 1]
    keys = [key for batch in (first, *later) for key in batch.keys.to_list()]
    assert len(set(keys)) == 5
