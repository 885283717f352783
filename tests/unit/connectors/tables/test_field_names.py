"""A record with an odd field name is stored correctly, or fails alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.duckdb.database import DIALECT as DUCKDB
from connectors.postgres.database import DIALECT as POSTGRES
from connectors.tables.columns import Dialect, changes_for, fill
from connectors.tables.fitting import unfit

ODD: list[Any] = [
    "", " ", "a", "A", "\0", "a\0b", "\ud800", "x" * 63, "x" * 64, "ä" * 31, "ä" * 32, "Ä", "ä", "ctid",
    "K", "\u212a", "k", "rowid", 1, None, ("a",), b"a",
]  # fmt: skip

names = st.one_of(st.sampled_from(ODD), st.text(max_size=3), st.integers(0, 1))
records = st.one_of(
    st.dictionaries(names, st.sampled_from([None, 1, 2]), max_size=4), st.sampled_from([None, 5, "a", []])
)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [DUCKDB, POSTGRES], ids=["duckdb", "postgres"])
@given(rows=st.lists(records, max_size=5))
@example(rows=[{"a": 1, "A": None}, {"A": 2}, {"a": 1, "A": 1}])
def test_every_value_is_in_its_column_or_its_record_fails(dialect: Dialect, rows: list[Any]) -> None:
    refused = unfit(rows, [], dialect)
    kept = [row for index, row in enumerate(rows) if index not in refused]
    columns = {dialect.fold(one.name): one for one in changes_for(kept, {}, {}, dialect).added}
    values, failures = fill(kept, columns, dialect)

    assert not failures
    assert not any(map(dialect.refusal, [one.name for one in columns.values()]))
    for index, row in enumerate(kept):
        stored = {name: column[index] for name, column in values.items() if column[index] is not None}
        given = {name: value for name, value in row.items() if value is not None}
        assert {dialect.fold(name): value for name, value in stored.items()} == {
            dialect.fold(name): value for name, value in given.items()
        }
        assert len(stored) == len(given)
    for index, error in refused.items():
        assert error.kind == ("FieldName" if isinstance(rows[index], Mapping) else "NotAnObject")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"": 1}, "the field '' cannot be a column of PostgreSQL: it is empty: rename it before the sink"),
        ({"a\0": 1}, "the field 'a\\x00' cannot be a column of PostgreSQL: it has a null character"),
        ({"\ud800": 1}, "the field '\\ud800' cannot be a column of PostgreSQL: it is not valid Unicode"),
        ({"ä" * 32: 1}, "it is longer than 63 bytes"),
        ({"xmin": 1}, "the field 'xmin' cannot be a column of PostgreSQL: every table has such a column"),
        ({1: None}, "a field has a name that is not text"),
        (5, "the record is not a mapping of fields"),
    ],
)  # fmt: skip
def test_the_message_says_what_is_wrong_with_the_name(record: Any, message: str) -> None:
    (error,) = unfit([record], [], POSTGRES).values()

    assert message in str(error)
    assert len(str(error)) < 300


def test_two_fields_that_are_one_column_are_named() -> None:
    failures = unfit([{"Id": 1}, {"id": 2}, {"Id": 1, "id": 2}], [], DUCKDB)

    assert list(failures) == [2]
    assert "the fields 'Id' and 'id' are the same column in DuckDB: rename it" in str(failures[2])


def test_a_row_without_its_key_fails() -> None:
    failures = unfit([{"id": 1}, {"id": None}, {}], ["id"], DUCKDB)

    assert {index: error.kind for index, error in failures.items()} == {1: "MissingKey", 2: "MissingKey"}
