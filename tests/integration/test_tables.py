"""Common behaviour of the sinks and sources of tables, for every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from engine.contract.component import Context
from engine.errors import FatalError, TransientError
from tests.series import few
from tests.table_targets import TABLE, ClickHouseTarget, DuckdbTarget, PostgresTarget, Target, batch_of

LONG = "x" * 10_000
REFERRED = (
    "CREATE TABLE tables.c (t int REFERENCES tables.t (n)); INSERT INTO tables.t VALUES (1); "
    "INSERT INTO tables.c VALUES (1)"
)


@pytest.fixture(params=["duckdb", "postgres", "clickhouse"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    if request.param == "duckdb":
        return DuckdbTarget(tmp_path / "w.duckdb")
    server = request.getfixturevalue(request.param)
    return PostgresTarget(server) if request.param == "postgres" else ClickHouseTarget(server)


@pytest.fixture(params=["postgres", "clickhouse"])
def served(request: pytest.FixtureRequest) -> Iterator[PostgresTarget | ClickHouseTarget]:
    server = request.getfixturevalue(request.param)
    yield PostgresTarget(server) if request.param == "postgres" else ClickHouseTarget(server)
    server.start()


@pytest.mark.slow
async def test_a_table_is_made_and_gets_columns_as_they_come(target: Target) -> None:
    failures = await target.write(
        [{"id": 1, "n": 1}], [{"id": 2, "n": 1.5, "new": {"a": 1}, "t": "a\tb\\\n"}]
    )

    assert failures == {}
    assert await target.read(table=TABLE) == [
        {"id": 1, "n": 1.0, "new": None, "t": None},
        {"id": 2, "n": 1.5, "new": {"a": 1}, "t": "a\tb\\\n"},
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("timestamptz", ["12:00:00+00:00", "10:00:00+00:00", "12:00:00+00:00", "10:00:00+00:00"]),
        ("timestamp", ["12:00:00"] * 4),
    ],
)
@pytest.mark.parametrize("target", ["duckdb", "postgres"], indirect=True)
async def test_times_mean_the_same_in_every_database(target: Target, sql: str, expected: list[str]) -> None:
    zoned = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    noon = zoned.replace(tzinfo=None)
    given = [noon.isoformat(), zoned.isoformat(), noon, zoned]
    await target.write([{"id": number, "at": at} for number, at in enumerate(given)], columns={"at": sql})
    read = await target.read(table=TABLE, key="id")
    assert [row["at"] for row in read] == [f"2026-03-01T{time}" for time in expected]
    target.sql(f"DROP TABLE {TABLE}")
    await target.write(read, columns={"at": sql})
    assert await target.read(table=TABLE, key="id") == read


@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_a_default_stands_for_a_field_that_a_record_lacks(target: Target, mode: str) -> None:
    columns = "id int, name varchar(9) DEFAULT 'new', n int NOT NULL DEFAULT 7"
    engine = ""
    if isinstance(target, ClickHouseTarget):
        columns, engine = "id int, name Nullable(String) DEFAULT 'new', n int DEFAULT 7", "ORDER BY id"
    target.sql(f"CREATE TABLE {TABLE} ({columns}) {engine}")
    page = [
        {"id": 1},
        {"id": 2, "name": "x"},
        {"id": 3, "name": None},
        {"n": 8, "id": 4},
        {"id": 5, "n": None},
    ]
    assert await target.write(page, mode=mode) == {4: "ConstraintViolated"}
    assert target.rows() == [(1, "new", 7), (2, "x", 7), (3, None, 7), (4, "new", 8)]


@pytest.mark.slow
async def test_integers_that_no_float_holds_stay_integers(target: Target) -> None:
    exact = 2**53 + 1
    failures = await target.write([{"id": exact}], [{"id": 1.5}, {"id": 2}])

    assert failures == {0: "WrongType"}
    assert sorted(row["id"] for row in await target.read(table=TABLE)) == [2, exact]


@pytest.mark.slow
@pytest.mark.parametrize("page", [[{"id": 1, "n": 1.6}], [{"id": 1, "n": 1}, {"id": 2, "n": 1.6, "x": 1}]])
async def test_rows_that_replace_others_keep_their_values(target: Target, page: list[Any]) -> None:
    await target.write([{"id": 1, "n": 1}])

    assert await target.write(page, mode="replace", run="r2") == {}
    given = [{name: value for name, value in row.items() if value is not None} for row in page]
    found = await target.read(table=TABLE)
    assert [{name: value for name, value in row.items() if value is not None} for row in found] == given


@pytest.mark.slow
async def test_rows_that_replace_others_have_the_types_of_the_table(target: Target) -> None:
    await target.write([{"id": 1, "n": 1}])

    failures = await target.write([{"id": 1, "n": "one"}, {"id": 2, "n": 2}], mode="replace", run="r2")

    assert failures == {0: "WrongType"}
    assert await target.read(table=TABLE) == [{"id": 2, "n": 2}]


@pytest.mark.slow
async def test_a_row_that_cannot_replace_others_fails_alone(target: Target) -> None:
    if isinstance(target, ClickHouseTarget):
        target.sql(
            f"CREATE TABLE {TABLE} (id Int32, n Int32, name String, s String DEFAULT 'new', "
            "CONSTRAINT positive CHECK n > 0) ENGINE = MergeTree ORDER BY id"
        )
    else:
        target.sql(
            f"CREATE TABLE {TABLE} (id int PRIMARY KEY, n int CHECK (n > 0), name text NOT NULL, "
            "s text NOT NULL DEFAULT 'new')"
        )
    page = [{"id": number, "n": number, "name": "x"} for number in range(1, 6)]
    page[1] |= {"n": -1}
    page[3] |= {"name": None}
    await target.write([page[0]])

    failures = await target.write(page, mode="replace", run="r2")

    assert failures == {1: "ConstraintViolated", 3: "ConstraintViolated"}
    assert target.rows() == [(1, 1, "x", "new"), (3, 3, "x", "new"), (5, 5, "x", "new")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("CREATE TABLE tables.u (n int); CREATE VIEW tables.t AS FROM tables.u", "Can only delete from base"),
        (
            f"CREATE TABLE tables.t (n int PRIMARY KEY); {REFERRED}",
            "Violates foreign key constraint",
        ),
    ],
    ids=["view", "reference"],
)
async def test_a_file_whose_rows_cannot_be_replaced_is_refused(
    tmp_path: Path, made: str, message: str
) -> None:
    target = DuckdbTarget(tmp_path / "t.duckdb")
    target.sql(made)

    with pytest.raises(
        FatalError, match=f"`mode: replace` cannot exchange the rows of tables.t: .*{message}"
    ):
        async with target.sink(mode="replace"):
            pass


@pytest.mark.slow
async def test_rows_replace_others_under_unique_indexes(tmp_path: Path) -> None:
    target = DuckdbTarget(tmp_path / "t.duckdb")
    target.sql('CREATE TABLE tables.t (n int, "a (b" int); INSERT INTO tables.t VALUES (1, 1)')
    target.sql('CREATE UNIQUE INDEX i ON tables.t (n, "a (b"); CREATE UNIQUE INDEX j ON tables.t ((n % 10))')
    page = [{"n": 1, "a (b": 1}, {"n": 11, "a (b": 1}, {"n": 2, "a (b": 1, "new": 3}]

    assert await target.write(page, mode="replace") == {1: "ConstraintViolated"}
    assert target.rows() == [(1, 1, None), (2, 1, 3)]


@pytest.mark.slow
async def test_rows_that_become_referred_to_stop_the_run(tmp_path: Path) -> None:
    target = DuckdbTarget(tmp_path / "t.duckdb")
    target.sql(
        "CREATE TABLE tables.t (n int PRIMARY KEY); CREATE TABLE tables.c (t int REFERENCES tables.t (n))"
    )

    async with target.sink(mode="replace") as sink:
        await sink._database.run(lambda connection: connection.execute("INSERT INTO tables.t VALUES (1)"))
        await sink._database.run(lambda connection: connection.execute("INSERT INTO tables.c VALUES (1)"))
        with pytest.raises(FatalError, match="Violates foreign key constraint"):
            await sink.write(batch_of([{"n": 1}]))


@pytest.mark.slow
async def test_old_values_need_not_fit_the_types_of_new_ones(tmp_path: Path) -> None:
    target = DuckdbTarget(tmp_path / "t.duckdb")
    target.sql(
        "CREATE TABLE tables.t (n text NOT NULL, m int); INSERT INTO tables.t VALUES ('x', 1), ('y', 2)"
    )

    assert await target.write([{"n": 1, "m": 3}], mode="replace", columns={"n": "bigint"}) == {}
    assert target.rows() == [(1, 3)]
    assert await target.write([{"m": 4}], columns={"n": "bigint"}) == {0: "ConstraintViolated"}


@pytest.mark.slow
async def test_a_column_that_an_index_needs_cannot_be_widened(tmp_path: Path) -> None:
    target = DuckdbTarget(tmp_path / "t.duckdb")
    target.sql("CREATE TABLE tables.t (n int); CREATE INDEX i ON tables.t (n)")

    with pytest.raises(FatalError, match=r"cannot add or widen the columns 'n' of tables.t: .*index depends"):
        async with target.sink(mode="replace") as sink:
            await sink.write(batch_of([{"n": 1.5}]))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_a_computed_column_is_to_be_left_out(tmp_path: Path, mode: str) -> None:
    target = DuckdbTarget(tmp_path / "t.duckdb")
    target.sql("CREATE TABLE tables.t (n int, m int GENERATED ALWAYS AS (n * 2) VIRTUAL)")

    with pytest.raises(FatalError, match="leave the field out before the sink"):
        async with target.sink(mode=mode) as sink:
            await sink.write(batch_of([{"n": 1, "m": 2}]))


@pytest.mark.slow
async def test_replacing_adds_no_column_without_evolve(target: Target) -> None:
    await target.write([{"id": 1}])

    failures = await target.write([{"id": 2}, {"id": 3, "x": 1}], mode="replace", run="r2", evolve=False)

    assert failures == {1: "UnknownField"}
    assert await target.read(table=TABLE) == [{"id": 2}]


@pytest.mark.slow
async def test_a_record_with_an_odd_field_name_is_stored_or_fails_alone(target: Target) -> None:
    names: list[Any] = [chr(number) for number in range(128)]
    names += ["", "\ud800", "x" * 63, LONG, "Ä", "ä", "a.b", "ctid", "rowid", "%s", "{}", "$1", 1, None]
    records = [{"id": index, name: f"v{index}"} for index, name in enumerate(names)]

    failures = await target.write([*records, {"id": 999, "A": 1, "a": None}, "no record"])

    assert failures.pop(len(names) + 1) == "NotAnObject"
    assert set(failures.values()) == {"FieldName"}
    odd = {"", "\0", "\ud800", 1, None}
    if isinstance(target, PostgresTarget):
        odd |= {LONG, "ctid"}
    assert {names[index] for index in failures} == odd
    stored = {row.pop("id"): row for row in await target.read(table=TABLE)}
    assert set(stored) == {999, *range(len(names))} - failures.keys()
    for index in stored.keys() - {999}:
        found = {folded(name): value for name, value in stored[index].items() if value is not None}
        assert found == {folded(names[index]): f"v{index}"}


def folded(name: str) -> str:
    """DuckDB has one column for both cases of an ASCII letter."""
    return name.lower() if name.isascii() else name


@pytest.mark.slow
async def test_a_merge_whose_first_records_are_odd_continues(target: Target) -> None:
    page = [{"a": 1}, {"id": 1, "": 2}, "no record"]

    failures = await target.write(page, mode="merge", key="id")
    assert failures == {0: "MissingKey", 1: "FieldName", 2: "NotAnObject"}
    assert await target.write([{"id": 2, "b": 1}], mode="merge", key="id") == {}
    assert target.rows() == [(2, 1)]


@pytest.mark.slow
async def test_a_table_that_does_not_evolve_refuses_new_fields(target: Target) -> None:
    await target.write([{"id": 1}])
    failures = await target.write([{"id": 2}, {"id": 3, "new": 1}, {"id": 4.5}], evolve=False, run="r2")

    assert failures == {1: "UnknownField", 2: "WrongType"}
    assert target.rows() == [(1,), (2,)]


@pytest.mark.slow
async def test_a_merge_updates_the_fields_that_a_record_has(target: Target) -> None:
    await target.write([{"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 2, "b": 2}], mode="merge", key="id")
    page = [{"id": 1, "a": 9}, {"id": 3, "a": 3}, {"id": 1, "b": 8}, {"id": 1, "a": 7}, {"a": 5}]
    failures = await target.write(page, mode="merge", key="id", run="r2")

    assert failures == {4: "MissingKey"}
    assert target.rows("id, a, b") == [(1, 7, 8), (2, 2, 2), (3, 3, None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "keys"),
    few(
        [
            ("timestamptz", ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00"]),
            ("double precision", [1, 1.0]),
            ("date", ["2026-02-28", "2026-02-28T10:00:00Z"]),
        ],
        1,
        several=True,
    ),
)
async def test_keys_that_are_equal_in_their_column_are_one_row(
    target: Target, kind: str, keys: list[Any]
) -> None:
    columns = {"id": target.timestamp if kind == "timestamptz" else kind}
    options: dict[str, Any] = {"mode": "merge", "key": "id", "columns": columns}
    page = [{"id": key, "n": number} for number, key in enumerate([*keys, *keys])]
    for run in ("r1", "r2"):
        assert await target.write(page, run=run, **options) == {}
        assert target.rows("n") == [(3,)]


@pytest.mark.slow
async def test_a_replacing_run_shows_its_rows_when_it_is_complete(target: Target) -> None:
    await target.write([{"id": 1}, {"id": 2}])
    target.sql(f"CREATE VIEW tables.v AS SELECT id FROM {TABLE}")
    async with target.sink("r2", mode="replace") as opened:
        await opened.write(batch_of([{"id": 7, "new": "x"}]))
    assert target.rows() == [(1,), (2,)]
    async with target.sink("r2", mode="replace") as resumed:
        await resumed.write(batch_of([{"id": 7, "new": "x"}, {"id": 8, "new": "y"}], replay=True))
        await resumed.run_completed()
        await resumed.run_completed()
    async with target.sink("r2", mode="replace") as told_again:
        await told_again.run_completed()
    assert target.rows() == [(7, "x"), (8, "y")]
    assert target.sql("SELECT * FROM tables.v ORDER BY 1") == [(7,), (8,)]
    tables = target.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'tables'")
    assert {name for (name,) in tables} - {"_odw_batches"} == {"t", "v"}


@pytest.mark.slow
async def test_a_replacing_run_without_records_empties_the_table(target: Target) -> None:
    await target.write([{"id": 1}])
    await target.write(mode="replace", run="r2")

    assert target.rows() == []


@pytest.mark.slow
async def test_what_is_left_of_a_run_never_replaces_a_whole_one(target: Target) -> None:
    async with target.sink("r1", mode="replace") as interrupted:
        await interrupted.write(batch_of([{"id": 1}, {"id": 2}]))
    await target.write([{"id": 1}, {"id": 2}, {"id": 3}], mode="replace", run="r2")

    async with target.sink("r1", mode="replace") as resumed:
        await resumed.write(batch_of([{"id": 3}], 2))
        with pytest.raises(FatalError, match="1 of the 3 rows of this run are still there"):
            await resumed.run_completed()
    assert target.rows() == [(1,), (2,), (3,)]


@pytest.mark.slow
async def test_entries_of_a_completed_run_are_forgotten(target: Target) -> None:
    await target.write([{"id": 1}])

    assert target.sql(f"SELECT * FROM {target.ledger}") == []


@pytest.mark.slow
async def test_a_record_with_nothing_in_it_fails(target: Target) -> None:
    assert await target.write([{}, {"id": None}]) == {0: "EmptyRecord", 1: "EmptyRecord"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["duckdb", "postgres"], indirect=True)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"table": TABLE, "key": "no"}, "no column 'no'; they have id, n"),
        ({"table": TABLE, "key": "n"}, "names more than one row"),
        ({"query": f"SELECT nullif(id, 5) AS id FROM {TABLE}", "key": "id"}, "has no value in some rows"),
        ({"table": "tables.missing"}, "does not exist"),
        ({"query": "SELEC 1"}, "syntax error"),
    ],
)
async def test_an_unreadable_file_shows_why(target: Target, params: dict[str, Any], message: str) -> None:
    target.sql(f"CREATE TABLE {TABLE} AS SELECT n AS id, 1 AS n FROM generate_series(1, 9) AS s(n)")
    source = target.source(**params)
    with pytest.raises(FatalError, match=message):
        async with source:
            async with aclosing(source.splits(Context())) as listing:  # type: ignore[type-var]
                splits = [split async for split in listing]
            async with aclosing(source.read(splits[0], None, Context())) as batches:
                async for _ in batches:
                    pass


@pytest.mark.slow
async def test_a_sink_serves_one_run_after_another(target: Target) -> None:
    one = target.sink(mode="replace")
    for number, run in enumerate(("r1", "r2")):
        one.ctx = Context("p", "n", run)
        async with one:
            await one.write(batch_of([{"id": number}]))
            await one.run_completed()
    assert target.rows() == [(1,)]


@pytest.mark.slow
@pytest.mark.slow
async def test_an_outage_is_transient_and_the_rows_arrive_once(
    served: PostgresTarget | ClickHouseTarget,
) -> None:
    async with served.sink() as opened:
        await opened.write(batch_of([{"id": 1}]))
        served.server.stop()
        with pytest.raises(TransientError):
            await opened.write(batch_of([{"id": 2}], 1))
        served.server.start()
        await opened.write(batch_of([{"id": 2}], 1))
    assert served.rows() == [(1,), (2,)]


@pytest.mark.slow
async def test_an_outage_at_the_end_of_a_run_is_transient(served: PostgresTarget | ClickHouseTarget) -> None:
    async with served.sink(mode="replace") as opened, served.sink(table="tables.other") as added:
        await opened.write(batch_of([{"id": 1}]))
        await added.write(batch_of([{"id": 2}]))
        served.server.stop()
        await added.run_completed()  # its rows are there already
        with pytest.raises(TransientError):
            await opened.run_completed()
        served.server.start()
        await opened.run_completed()
    assert served.rows() == [(1,)]
