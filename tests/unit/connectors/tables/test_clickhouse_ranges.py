"""Values that ClickHouse would silently change."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.clickhouse.tables import check_ranges, column_of
from connectors.tables.isolation import RowsRefusedError

FIT = [
    ("Date", "2024-02-29"), ("Date", "2149-06-06"), ("Nullable(Date)", None), ("Date", "1 Feb 2024"),
    ("Date32", "1900-01-01"), ("Date32", "2299-12-31"), ("DateTime", "1970-01-01T00:00:00Z"),
    ("DateTime", "2106-02-07T06:28:15Z"), ("DateTime64(3)", "2200-01-01T00:00:00Z"),
    ("DateTime('Europe/Berlin')", "2024-01-01 00:00:00"), ("Float32", 3.4e38), ("Float32", float("inf")),
    ("Float64", 1e300), ("UInt256", 2**256 - 1), ("Nullable(Int128)", -(2**127)), ("Array(Int32)", [1, 2]),
    ("Array(Nullable(Int32))", [None]), ("Array(String)", ["a"]), ("Map(String, Int32)", {"a": 1}),
    ("Array(Int32)", "[1]"), ("Array(Dynamic)", [None]),
]  # fmt: skip
CHANGED = [
    ("Date", "2023-02-29"), ("Date", "1969-12-31"), ("Nullable(Date)", "2200-01-01"),
    ("Date32", "2023-02-30"),
    ("DateTime", "1970-01-01T00:00:00+02:00"), ("DateTime", "2106-02-07T06:28:16Z"),
    ("DateTime('UTC')", "2200-01-01T00:00:00Z"), ("DateTime64(3)", "2023-02-30T00:00:00Z"), ("Float32", 1e39),
    ("UInt256", 2**256), ("UInt128", -1), ("Int128", 2**127), ("Array(Int32)", [2**31]),
    ("Array(Int32)", [None]), ("Array(UInt8)", "[1, 256]"),
    ("Array(String)", ["a", None]), ("Map(String, Int32)", {"a": 2**40}),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "value"), FIT)
def test_what_arrives_as_it_is_passes(sql: str, value: Any) -> None:
    check_ranges(column_of("v", sql), [value])


@pytest.mark.parametrize(("sql", "value"), CHANGED)
def test_values_that_would_change_are_refused(sql: str, value: Any) -> None:
    with pytest.raises(RowsRefusedError, match="the column 'v' is") as caught:
        check_ranges(column_of("v", sql), [value])
    assert str(value) not in str(caught.value)
