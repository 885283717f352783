"""Columns from records: types, added and widened columns, values that do not fit."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from connectors.duckdb.database import DIALECT
from connectors.tables.columns import Column, changes_for, fill, rows_of
from connectors.tables.params import merge_rounds
from connectors.tables.values import json_value


def column(name: str, sql: str) -> Column:
    return DIALECT.column(name, sql)


def made(*values: Any) -> str | None:
    changes = changes_for([{"f": value} for value in values], {}, {}, DIALECT)
    return changes.added[0].sql if changes.added else None


@pytest.mark.parametrize(
    ("values", "sql"),
    [
        ([True, None], "BOOLEAN"),
        ([1, 2], "BIGINT"),
        ([1, 2.5], "DOUBLE"),
        ([1, Decimal("2.5")], "DECIMAL(38,9)"),
        ([Decimal("0.1234567890120"), Decimal("1234567890123456789012345")], "DECIMAL(38,12)"),
        ([Decimal("0.123456789012"), Decimal("123456789012345678901234567")], "DECIMAL(38,9)"),
        ([Decimal(1) / 3, Decimal("NaN")], "DECIMAL(38,28)"),
        ([Decimal("0.00000000000000000000000000001")], "DECIMAL(38,9)"),
        (["a"], "VARCHAR"),
        ([{"a": 1}, [1]], "JSON"),
        ([datetime(2026, 1, 1, tzinfo=UTC)], "TIMESTAMPTZ"),
        ([date(2026, 1, 1)], "DATE"),
        ([b"a"], "BLOB"),
        ([1, 2, "broken"], "BIGINT"),
        ([1, "a"], "VARCHAR"),
        ([None], None),
    ],
)
def test_a_column_has_the_type_of_most_values(values: list[Any], sql: str | None) -> None:
    assert made(*values) == sql


def test_declared_types_win_and_known_columns_stay() -> None:
    known = {"a": column("A", "BIGINT")}
    changes = changes_for([{"a": 1, "b": "2026-01-01"}], known, {"b": "date"}, DIALECT)

    assert [(one.name, one.sql) for one in changes.added] == [("b", "date")]
    assert changes.widened == []


def test_integers_become_floats_and_nothing_else_changes() -> None:
    known = {"a": column("a", "BIGINT"), "b": column("b", "BIGINT"), "c": column("c", "BIGINT")}
    changes = changes_for([{"a": 1.5, "b": 1.0, "c": "x"}], known, {}, DIALECT)

    assert [(one.name, one.sql) for one in changes.widened] == [("a", "DOUBLE")]


@pytest.mark.slow
def test_a_record_whose_field_names_are_data_gets_no_columns() -> None:
    odd = {f"user-{number}": 1 for number in range(500)}
    rows = [{"a": 1}, odd, {"b": 1}]
    known = {one.name: one for one in changes_for(rows, {}, {}, DIALECT).added}

    _, failures = fill(rows, known, DIALECT)

    assert list(known) == ["a", "b"]
    assert [(index, error.kind) for index, error in failures.items()] == [(1, "TooManyFields")]
    assert "more than 500 columns: put objects whose field names are data into one field" in str(failures[1])


@pytest.mark.parametrize(
    ("sql", "value", "stored"),
    [
        ("VARCHAR", 12, "12"),
        ("VARCHAR", True, "true"),
        ("VARCHAR", {"a": 1}, '{"a":1}'),
        ("VARCHAR", date(2026, 1, 2), "2026-01-02"),
        ("BIGINT", 3.0, 3),
        ("DOUBLE", 3, 3.0),
        ("JSON", "a", '"a"'),
        ("TIMESTAMPTZ", datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
        ("UUID", "7d", "7d"),
        ("DECIMAL(9,2)", "1.5", "1.5"),
    ],
)
def test_a_value_that_fits_is_stored(sql: str, value: Any, stored: Any) -> None:
    values, failures = fill([{"f": value}], {"f": column("f", sql)}, DIALECT)

    assert failures == {}
    assert values == {"f": [stored]}


@pytest.mark.parametrize(
    ("sql", "declared", "value"),
    [
        ("DECIMAL(38,9)", [], Decimal("1.5000000000000")),
        ("DECIMAL(38,9)", [], 0.1 + 0.2),
        ("DECIMAL(38,9)", [], Decimal("NaN")),
        ("DECIMAL(38,9)", ["F"], Decimal("1.0000000001")),
        ("DECIMAL(12,2)", [], Decimal("1.005")),
    ],
)
def test_decimals_are_rounded_to_chosen_types_only(sql: str, declared: list[str], value: Any) -> None:
    values, failures = fill([{"f": value}], {"f": column("f", sql)}, DIALECT, declared)

    assert failures == {}
    assert values["f"][0] is value


@pytest.mark.parametrize(
    ("sql", "value", "called"),
    [
        ("BIGINT", "secret", "text"),
        ("BIGINT", 1.5, "a number with a fraction"),
        ("BIGINT", 2**63, "an integer beyond 64 bits"),
        ("TINYINT", 128, "an integer beyond 8 bits"),
        ("BIGINT", True, "true or false"),
        ("BOOLEAN", 1, "an integer"),
        ("DOUBLE", 2**53 + 1, "an integer with more digits"),
        ("DOUBLE", Decimal("0.1234567890123456789"), "a decimal with more digits"),
        ("DOUBLE", [1], "a list"),
        ("DECIMAL(38,9)", Decimal("1.0000000001"), "a decimal with more than 9 places"),
        ("DECIMAL(38, 9)", "1e-10", "a decimal with more than 9 places"),
        ("DATE", 5, "an integer"),
        ("VARCHAR", b"a", "bytes"),
        ("JSON", object(), "cannot be stored|not JSON serializable|object"),
    ],
)
def test_a_value_that_does_not_fit_fails_alone(sql: str, value: Any, called: str) -> None:
    fits = None
    values, failures = fill([{"f": fits}, {"f": value}], {"f": column("f", sql)}, DIALECT)

    (error,) = failures.values()
    assert list(failures) == [1]
    assert error.kind == "WrongType"
    assert f"column 'f' is {sql}, and the value is" in str(error)
    assert any(part in str(error) for part in called.split("|"))
    assert "secret" not in str(error)
    assert values["f"] == [None, None]


def test_numbers_inside_of_json_keep_their_digits() -> None:
    given = {"n": 2**70, "d": [Decimal("1.10"), Decimal("0.1234567890123456789")]}
    values, failures = fill([{"f": given}], {"f": column("f", "JSON")}, DIALECT)

    assert failures == {}
    assert json.loads(values["f"][0]) == {"n": 2**70, "d": [1.1, "0.1234567890123456789"]}


def test_a_field_without_a_column_fails_unless_it_is_null() -> None:
    _, failures = fill([{"a": 1, "new": None}, {"a": 1, "new": 2}], {"a": column("a", "BIGINT")}, DIALECT)

    assert [(index, error.kind) for index, error in failures.items()] == [(1, "UnknownField")]


def test_models_are_their_fields() -> None:
    class Order(BaseModel):
        id: int

    assert rows_of([Order(id=1), {"id": 2}]) == [{"id": 1}, {"id": 2}]


def test_rounds_of_a_merge_keep_the_order_of_equal_keys() -> None:
    rows = [{"k": 1, "a": 1}, {"k": 2, "a": 1}, {"k": 1, "b": 2}, {"k": 1, "a": 3}, {"k": 2, "b": 1}]

    assert merge_rounds(range(5), rows, ["k"]) == [[0, 1], [2, 4], [3]]


@pytest.mark.parametrize("value", [[2**70], [{"n": 2**70}], {"n": [2**70]}, 2**70], ids=str)
def test_long_integers_anywhere_in_json_keep_their_digits(value: Any) -> None:
    values, failures = fill([{"f": value}], {"f": column("f", "JSON")}, DIALECT)
    assert failures == {}
    assert json.loads(values["f"][0]) == value


def test_values_of_a_database_become_json() -> None:
    given = [
        Decimal("1.50"),
        Decimal("3"),
        Decimal("0.1234567890123456789"),
        b"ab",
        (1, {2: date(2026, 1, 1)}),
    ]

    assert [json_value(one) for one in given] == [
        1.5,
        3,
        "0.1234567890123456789",
        "YWI=",
        [1, {"2": "2026-01-01"}],
    ]
