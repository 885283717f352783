"""Tables of ClickHouse; behaviour shared with other databases is in test_tables.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from connectors.clickhouse import ClickHouseConnection, ClickHouseSink, ClickHouseSinkParams
from connectors.clickhouse.client import Client
from engine.errors import BatchError, FatalError, TransientError
from tests.servers.clickhouse import PASSWORD, ClickHouse
from tests.table_targets import ClickHouseTarget, batch_of


@pytest.fixture
def target(clickhouse: ClickHouse) -> Iterator[ClickHouseTarget]:
    yield ClickHouseTarget(clickhouse)
    clickhouse.start()


def breaking(monkeypatch: pytest.MonkeyPatch, opened: Any, *, before: bool) -> None:
    """Break the connection at the next INSERT of rows, before the server has it or after."""
    execute = opened._client.execute

    async def broken(statement: str, data: bytes = b"", query_id: str = "") -> None:
        if not query_id:
            return await execute(statement, data)
        monkeypatch.setattr(opened._client, "execute", execute)
        if not before:
            await execute(statement, data, query_id)
        raise TransientError("lost the connection")

    monkeypatch.setattr(opened._client, "execute", broken)


@pytest.mark.slow
async def test_clickhouse_refuses_rows_alone_and_shows_no_values(target: ClickHouseTarget) -> None:
    target.sql(
        "CREATE TABLE tables.t (id Int32, n UInt8, day Nullable(Date32), kind Enum('a', 'b'), name String, "
        "CONSTRAINT small CHECK id < 1000) ENGINE = MergeTree ORDER BY id"
    )
    page: list[dict[str, Any]] = [
        {"id": number, "n": 1, "day": None, "kind": "a", "name": "x"} for number in range(16)
    ]
    page[1] |= {"id": 2**40}
    page[3] |= {"n": 256}
    page[5] |= {"n": -1}
    page[7] |= {"day": "secret"}
    page[9] |= {"kind": "secret"}
    page[11] |= {"name": None}
    page[13] |= {"id": 1000}
    page[15] |= {"name": "\ud800"}

    async with target.sink() as opened:
        with pytest.raises(BatchError) as caught:
            await opened.write(batch_of(page))

    assert {index: error.kind for index, error in caught.value.failures.items()} == {
        1: "WrongType", 3: "WrongType", 5: "ValueRefused", 7: "ValueRefused",
        9: "ValueRefused", 11: "ConstraintViolated", 13: "ConstraintViolated", 15: "ValueRefused",
    }  # fmt: skip
    assert "secret" not in str(caught.value.failures)
    assert "(column day)" in str(caught.value.failures[7])
    assert len(target.rows()) == 8


async def test_values_arrive_as_they_are(target: ClickHouseTarget) -> None:
    target.sql(
        "CREATE TABLE tables.t (id UInt64, l Array(Int64), s LowCardinality(Nullable(String)), f Float64, "
        "d Decimal(12, 2), at DateTime64(3, 'UTC'), big Int128, m Map(String, Int64)) "
        "ENGINE = MergeTree ORDER BY id"
    )
    row = {
        "id": 2**63, "l": [1, 2], "s": "ä\t'\\\n", "f": float("inf"), "d": 1.25,
        "at": "2026-01-01T02:00:00.5+02:00", "big": 2**90, "m": {"a": 1},
    }  # fmt: skip

    assert await target.write([row]) == {}
    columns = "id, l, s, toString(f), toString(d), toString(at), toString(big), m"
    assert target.rows(columns) == [
        (2**63, [1, 2], "ä\t'\\\n", "inf", "1.25", "2026-01-01 00:00:00.500", str(2**90), {"a": 1})
    ]


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_an_insert_that_was_considered_lost_is_not_repeated(
    target: ClickHouseTarget, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    async with target.sink() as opened:
        await opened.write(batch_of([{"id": 1}]))
        breaking(monkeypatch, opened, before=before)
        with pytest.raises(TransientError):
            await opened.write(batch_of([{"id": 2}], 1))
        await opened.write(batch_of([{"id": 2}], 1))
        assert await opened._count() == 2
    assert target.rows() == [(1,), (2,)]


@pytest.mark.slow
async def test_what_a_broken_insert_left_is_written_again(
    target: ClickHouseTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.sql("CREATE TABLE tables.t (id Int64) ENGINE = MergeTree ORDER BY id PARTITION BY id % 2")
    async with target.sink() as killed:
        breaking(monkeypatch, killed, before=False)
        with pytest.raises(TransientError):
            await killed.write(batch_of([{"id": 1}, {"id": 2}, {"id": 3}]))
    # the INSERT had two parts, one for each partition, and was killed after the first
    target.sql("ALTER TABLE tables.t DELETE WHERE id = 2 SETTINGS mutations_sync = 1")

    async with target.sink() as resumed:
        await resumed.write(batch_of([{"id": 1}, {"id": 2}], replay=True))
        await resumed.write(batch_of([{"id": 3}, {"id": 4}], 2, replay=True))
        assert await resumed._count() == 4
    assert target.rows() == [(1,), (2,), (3,), (4,)]


@pytest.mark.slow
async def test_a_replacement_is_done_once_whenever_it_was_interrupted(
    target: ClickHouseTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    await target.write([{"id": 1}, {"id": 2}])
    async with target.sink("r2", mode="replace") as killed:
        await killed.write(batch_of([{"id": 3}, {"id": 4}]))
        monkeypatch.setattr(killed, "_drop_staging", None)
        with pytest.raises(TypeError):
            await killed.run_completed()  # the tables are exchanged
    async with target.sink("r2", mode="replace") as resumed:
        await resumed.run_completed()
    assert target.rows() == [(3,), (4,)]

    await target.write([{"id": 5}], mode="replace", run="r3")
    async with target.sink("r2", mode="replace") as told_again:
        await told_again.run_completed()
    assert target.rows() == [(5,)]


@pytest.mark.slow
async def test_a_replaced_table_keeps_its_engine_and_sorting_key(target: ClickHouseTarget) -> None:
    target.sql("CREATE TABLE tables.t (id Int64, n UInt8 DEFAULT 7) ENGINE = MergeTree ORDER BY id")
    await target.write([{"id": 2, "new": "x"}], mode="replace")

    assert target.rows() == [(2, 7, "x")]
    assert target.sql("SELECT sorting_key FROM system.tables WHERE database = 'tables' AND name = 't'") == [
        ("id",)
    ]


@pytest.mark.parametrize(
    ("engine", "params", "message"),
    [
        ("SummingMergeTree ORDER BY id", {}, "the table tables.t is SummingMergeTree"),
        ("Memory", {"mode": "replace"}, "the table tables.t is Memory"),
        ("MergeTree ORDER BY id", {"mode": "merge", "key": "id"}, r"ReplacingMergeTree ORDER BY \(id\)"),
        (
            "ReplacingMergeTree ORDER BY n",
            {"mode": "merge", "key": "id"},
            r"ReplacingMergeTree ORDER BY \(n\)",
        ),
    ],
)
async def test_a_table_whose_engine_does_not_fit_is_refused(
    target: ClickHouseTarget, engine: str, params: dict[str, Any], message: str
) -> None:
    target.sql(f"CREATE TABLE tables.t (id Int64, n Int64) ENGINE = {engine}")
    with pytest.raises(FatalError, match=message):
        await target.write([{"id": 1, "n": 1}], **params)


@pytest.mark.slow
async def test_equal_rows_that_are_merged_again_are_no_repetition(target: ClickHouseTarget) -> None:
    async with target.sink(mode="merge", key="id") as opened:
        for number in (1, 2, 1):
            await opened.write(batch_of([{"id": 1, "n": number}]))
        assert await opened.describe_target() == "table tables.t, mode merge: 1 rows, 2 columns"
    assert target.rows() == [(1, 1)]


@pytest.mark.slow
async def test_connections_to_clickhouse_name_the_remedy(target: ClickHouseTarget) -> None:
    url, right = target.server.url, SecretStr(PASSWORD)
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"password": SecretStr("wrong")}, FatalError, "check `user` and `password`"),
        ({"database": "nothing"}, FatalError, "create the database first"),
        ({"url": "http://127.0.0.1:9"}, TransientError, "no service is listening at http://127.0.0.1:9"),
    ]
    for given, kind, message in wrong:
        fields: dict[str, Any] = {"url": url, "password": right, **given}
        sink = ClickHouseSink(ClickHouseSinkParams(table="t"), ClickHouseConnection(**fields))
        with pytest.raises(kind, match=message) as caught:
            await sink.check_connection()
        assert "wrong" not in str(caught.value)
        assert PASSWORD not in str(caught.value)

    sink = ClickHouseSink(ClickHouseSinkParams(table="tables.t"), target.connection)
    assert (await sink.check_connection()).startswith("logged in as default, ClickHouse ")
    assert await sink.describe_target() == "table tables.t, mode append: not there yet"
    await target.write([{"id": 1}])
    assert await sink.describe_target() == "table tables.t, mode append: 1 rows, 1 columns"


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"mode": "merge", "key": "id"}], ids=["append", "merge"])
async def test_an_insert_that_is_under_way_is_waited_for(
    target: ClickHouseTarget, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    await target.write([{"id": 1}], **params)
    running = [2, 1, 0]
    fetch = Client.fetch

    async def answer(client: Client, query: str) -> list[list[Any]]:
        return [[running.pop(0)]] if "system.processes" in query else await fetch(client, query)

    monkeypatch.setattr(Client, "fetch", answer)
    monkeypatch.setattr("connectors.clickhouse.ledger._LOOK_SECONDS", 0)
    async with target.sink(**params) as resumed:
        await resumed.write(batch_of([{"id": 1}], replay=True))
    assert running == []


@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_a_computed_column_is_to_be_left_out(target: ClickHouseTarget, mode: str) -> None:
    target.sql("CREATE TABLE tables.t (n Int64, m Int64 MATERIALIZED n * 2) ENGINE = MergeTree ORDER BY n")

    with pytest.raises(FatalError, match=r"the table tables.t computes m: leave the field out"):
        async with target.sink(mode=mode) as sink:
            await sink.write(batch_of([{"n": 1, "m": 2}]))
