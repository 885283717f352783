"""Rows in the text format of COPY can be read back, with any text."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.postgres.copying import copy_data

ESCAPED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}
texts = (
    st.none()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from(["\\N", "\\.", "a\tb\\\n\r"])
)


def read(data: bytes) -> list[list[str | None]]:
    """As PostgreSQL reads it."""
    lines = data.decode().split("\n")
    assert lines.pop() == ""
    return [[None if one == "\\N" else unescaped(one) for one in line.split("\t")] for line in lines]


def unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda found: ESCAPED[found[0]], text)


@pytest.mark.slow
@given(st.lists(st.tuples(texts, texts), min_size=1))
def test_texts_come_back_as_they_were(rows: list[tuple[str | None, str | None]]) -> None:
    assert read(copy_data(list(zip(*rows, strict=True)))) == [list(row) for row in rows]


def test_other_values_are_written_as_postgresql_reads_them() -> None:
    row = [True, None, 2**70, 1.5, float("inf"), Decimal("1.50"), b"\x00\xff"]

    (read_back,) = read(copy_data([[value] for value in row]))

    assert read_back == ["t", None, str(2**70), "1.5", "inf", "1.50", "\\x00ff"]


def test_lone_surrogates_are_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        copy_data([["a", "\ud800"]])
