"""Queries in a FROM clause, and text that tells no order of time."""

from __future__ import annotations

import pytest

from connectors.postgres import PostgresSource, PostgresSourceParams
from engine.errors import FatalError


@pytest.mark.parametrize(
    ("query", "inner"),
    [
        ("SELECT 1;", "SELECT 1"),
        ("SELECT 1 -- all", "SELECT 1 -- all"),
        ("SELECT 1 ; -- all", "SELECT 1"),
        ("SELECT 1;\n/* x; */ ;\n", "SELECT 1"),
        ("SELECT ';--' AS a", "SELECT ';--' AS a"),
        ("SELECT $$;$$, $a$;$a$; --x", "SELECT $$;$$, $a$;$a$"),
        ("SELECT 'it''s;' ; ", "SELECT 'it''s;'"),
        ("SELECT 1; SELECT 2;", "SELECT 1; SELECT 2"),
    ],
)
def test_only_the_end_of_a_query_is_left_out(query: str, inner: str) -> None:
    assert PostgresSourceParams(query=query).relation == f"({inner}\n) AS q"


@pytest.mark.parametrize("query", [" ", ";", "-- SELECT 1", "/* nothing */ ;"])
def test_a_query_of_comments_is_refused(query: str) -> None:
    with pytest.raises(ValueError, match="`query` is empty"):
        PostgresSourceParams(query=query)


def checked(text: str) -> None:
    PostgresSource(PostgresSourceParams(table="t", key="id", incremental="at"))._check_texts([None, text])


@pytest.mark.parametrize(
    "text",
    ["0", "9", "123456789", "-4", "0.5", "12.50", "2026", "1/2/2026", "31-12-2025 10:00", "3.1.26",
     "03-Mar-2026", "3 March 2026", "Mar 3, 2026", "Tue, 03 Mar 2026 10:00:00 GMT"],
)  # fmt: skip
def test_text_that_is_not_in_order_is_refused(text: str) -> None:
    with pytest.raises(FatalError, match=r"'at' has (numbers|dates that do not begin with the year) as text"):
        checked(text)


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-01", "2026/03/01 10:00", "20260101", "20260101120000", "1764518400", "1764518400.25",
     "2026.03", "000123", "v9", "01ARZ3NDEKTSV4", "0x7D1", "Market 3"],
)  # fmt: skip
def test_text_that_may_be_in_order_is_read(text: str) -> None:
    checked(text)
