"""Rows appended through Arrow equal those of DuckDB's own appender."""

from __future__ import annotations

import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import duckdb
import pytest

from engine.service import appending
from engine.service.appending import append, arrow_column
from engine.service.splitting import ExactFloat


class Colour(StrEnum):
    RED = "red"


STORED: dict[str, list[Any]] = {
    "VARCHAR": ["", "text", "12", "a\0b", "\N{SNOWMAN}\N{GRINNING FACE}", None],
    "JSON": ["{}", '{"a": [1, 1e400]}', "12345678901234567890123", None],
    "BIGINT": [0, -(2**63), 2**63 - 1, None],
    "DOUBLE": [0.1, -0.0, 5e-324, 1e300, 12, 2**53, None],
    "BOOLEAN": [True, False, None],
    "DATE": [date(1, 1, 1), date(9999, 12, 31), None],
    "TIMESTAMP": [datetime.min, datetime.max, None],  # noqa: DTZ901 -- as the column has them
    "VARCHAR[]": [[], ["a", None], ["\N{SNOWMAN}"], None],
    "BIGINT[]": [[], [2**63 - 1, None], None],
    "DOUBLE[][]": [[], [[], [1.5, None], None], None],
}

ODD: list[Any] = [
    "12", b"ab", 1, True, 2**53 + 1, 2**63, 1.5, float("nan"), Decimal("1.5"), date(2020, 1, 1),
    datetime(2020, 1, 1, tzinfo=UTC), UUID(int=5), Colour.RED, ExactFloat("1.25"), (), {"a"}, {"a": 1},
    "\ud800", [1.5], [True], [b"x"], ["\ud800"], [2**63], [["a"]],
]  # fmt: skip


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def stored(connection: duckdb.DuckDBPyConnection, columns: list[list[Any]]) -> list[tuple[Any, ...]]:
    types = {f'c "{place}"': name for place, name in enumerate(STORED)}
    named = ", ".join('"' + name.replace('"', '""') + f'" {kind}' for name, kind in types.items())
    connection.execute(f"CREATE OR REPLACE TABLE rows ({named})")
    append(connection, '"rows"', types, columns)
    return connection.execute("FROM rows").fetchall()


@pytest.mark.slow
def test_both_ways_store_the_same(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [(values * 100)[:120] for values in STORED.values()]
    monkeypatch.setattr(appending, "_MIN_ROWS", 1)
    by_columns = stored(connection, columns)
    monkeypatch.setattr(appending, "has_arrow", lambda: False)

    assert by_columns == stored(connection, columns)
    assert all(arrow_column(*pair) is not None for pair in STORED.items())


@pytest.mark.parametrize("sql_type", sorted(STORED))
def test_what_arrow_would_convert_is_left_to_duckdb(sql_type: str) -> None:
    is_double = sql_type == "DOUBLE"  # it takes whole numbers that a double holds
    for value in ODD:
        array = arrow_column(sql_type, [value])

        assert array is None or repr(array.to_pylist()) == repr([float(value) if is_double else value])


@pytest.mark.slow
def test_an_error_of_the_table_is_its_own(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE t (x JSON)")
    connection.begin()

    with pytest.raises(duckdb.ConversionException, match="Malformed JSON"):
        append(connection, "t", {"x": "JSON"}, [["{"] * 200])

    connection.rollback()
    append(connection, "t", {"x": "JSON"}, [["{}"] * 200])
    assert connection.execute("SELECT count(*) FROM t").fetchall() == [(200,)]


@pytest.mark.slow
def test_few_rows_do_not_load_arrow(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    connection.execute("CREATE TABLE t (x BIGINT)")

    append(connection, "t", {"x": "BIGINT"}, [[1, 2]])

    assert connection.execute("FROM t").fetchall() == [(1,), (2,)]
