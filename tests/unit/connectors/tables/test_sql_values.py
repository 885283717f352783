"""Values and connections of the source `sql`, without a database."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sql import SqlConnection
from connectors.sql.values import bound, json_values, order_texts, order_values
from engine.errors import FatalError

SECONDS = st.integers(-62_135_596_800, 253_402_300_799)


def remembered(column: pa.Array) -> pa.Array:
    """The column as a later run binds it."""
    return [bound(value) for value in json.loads(json.dumps(order_values(column, "c")))]


@pytest.mark.slow
@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1).map(lambda value: pa.array([value], pa.int64())),
        st.text().filter(str.isprintable).map(lambda value: pa.array([value], pa.string())),
        st.dates().map(lambda value: pa.array([value], pa.date32())),
        st.tuples(SECONDS, st.sampled_from([None, "UTC", "Europe/Berlin"])).map(
            lambda drawn: pa.array([drawn[0] * 10**6 + 1], pa.timestamp("us", drawn[1]))
        ),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: pa.array([value], pa.timestamp("ns"))),
    )
)
def test_an_order_is_bound_as_it_was_read(column: pa.Array) -> None:
    (again,) = remembered(column)
    assert again.equals(column)


def test_orders_name_records_in_utc_with_all_digits() -> None:
    moment = 1_767_261_600_123_456_789
    for zone, text in ((None, ""), ("UTC", "Z"), ("Europe/Berlin", "Z")):
        column = pa.array([moment], pa.timestamp("ns", zone))
        assert order_texts(column) == [f"2026-01-01 10:00:00.123456789{text}"]
    assert order_texts(pa.array([7, 8])) == ["7", "8"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None]), [1, None]),
        (pa.array([Decimal("1.50"), Decimal("0.1234567890123456789")]), [1.5, "0.1234567890123456789"]),
        (pa.array([date(2026, 1, 1)]), ["2026-01-01"]),
        (pa.array([1], pa.timestamp("ns", "UTC")), ["1970-01-01T00:00:00+00:00"]),
        (pa.array([datetime(2026, 1, 1, 12, tzinfo=UTC)]), ["2026-01-01T12:00:00+00:00"]),
        (pa.array([1_500], pa.time64("ns")), [time(0, 0, 0, 1).isoformat()]),
        (pa.array([1_500_000_000], pa.duration("ns")), [timedelta(seconds=1.5).total_seconds()]),
        (pa.array([b"x"]), ["eA=="]),
        (pa.array([{"a": [date(2026, 1, 1)]}]), [{"a": ["2026-01-01"]}]),
        (pa.array(['{"a": 1}'], pa.json_()), ['{"a": 1}']),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_columns_become_json(column: pa.Array, expected: list[Any]) -> None:
    assert json_values(column, "c") == expected
    json.dumps(json_values(column, "c"))


def test_a_year_that_python_lacks_names_the_remedy() -> None:
    with pytest.raises(FatalError, match="cast it in `query`"):
        json_values(pa.array([2**55], pa.timestamp("s")), "c")


@pytest.mark.parametrize("column", [pa.array([b"x"]), pa.array([Decimal(1)]), pa.array([[1]])])
def test_other_columns_order_nothing(column: pa.Array) -> None:
    with pytest.raises(FatalError, match="rows cannot be ordered by 'c'"):
        order_values(column, "c")


@pytest.mark.parametrize(
    ("driver", "url", "shown"),
    [
        ("snowflake", "me:s3cr3t-word@acme/db?role=x", "snowflake acme/db"),
        ("snowflake", "me:s3cr3t-word?x@acme/db?role=x", "snowflake acme/db"),
        ("flightsql", "grpc+tls://host:443", "flightsql grpc+tls://host:443"),
        ("postgresql", "postgresql://me:s3cr3t-word@host/db", "postgresql host/db"),
        ("postgresql", "postgresql://host/db?user=a@b&password=s3cr3t-word", "postgresql b"),
        ("postgresql", "host=h password=s3cr3t-word", "postgresql"),
        ("mssql", "Password=s3cr3t-word;Server=h", "mssql"),
        ("sqlite", "data/shop.sqlite", "sqlite data/shop.sqlite"),
    ],
)
def test_what_is_shown_of_an_address_has_no_secret(driver: str, url: str, shown: str) -> None:
    connection = SqlConnection(driver=driver, url=url)

    assert connection.place == shown
    assert "s3cr3t" not in connection.place + connection.identity + repr(connection)
    assert ("s3cr3t" in url) == any(one.startswith("s3cr3t-word") for one in connection.secrets)


@pytest.mark.parametrize(
    "url",
    [
        "me:{}@acme/db",
        "postgresql://me:{}@h:1/db",
        "postgresql://h:1/db?user=a@b&password={}",
        "password={} host=h",
    ],
)
def test_only_another_password_leaves_the_identity(url: str) -> None:
    def identity(url: str, **options: Any) -> str:
        return SqlConnection(driver="snowflake", url=url, **options).identity

    assert identity(url.format("s3cr3t")) == identity(url.format("changed"))
    assert identity(url.format("s3cr3t")) != identity(
        url.format("s3cr3t").replace("h", "k").replace("acme", "k")
    )
    assert identity(url) != identity(url, options={"account": "a"})
