"""Values and types as ClickHouse gets them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from connectors.clickhouse.tables import column_of, insert_data, nullable


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (0.29 * 100, "29.00"), (1.235, "1.24"), (-1.235, "-1.24"), (1.2, "1.2"), ("1.239", "1.24"),
        (Decimal("12345678901234567890123456789.125"), "12345678901234567890123456789.13"),
        (5, "5"), ("1e3", "1e3"), ("x", "x"), (float("nan"), "nan"), (None, None),
    ],
)  # fmt: skip
def test_decimals_are_rounded_and_not_cut_off(value: Any, sent: Any) -> None:
    assert orjson.loads(insert_data([column_of("n", "Nullable(Decimal(38, 2))")], [[value]])) == [[sent]]


@pytest.mark.parametrize(
    ("sql", "made"),
    [
        ("Int64", "Nullable(Int64)"),
        ("Nullable(Int64)", "Nullable(Int64)"),
        ("LowCardinality(String)", "LowCardinality(Nullable(String))"),
        ("Array(String)", "Array(String)"),
        ("Map(String, Int64)", "Map(String, Int64)"),
    ],
)
def test_columns_take_nulls_where_their_type_can(sql: str, made: str) -> None:
    assert nullable(sql) == made
