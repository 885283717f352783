"""Files that sinks write are read back with the same values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.objects.encoding import encode_csv, encode_jsonl
from connectors.objects.parquet_encoding import encode_parquet
from tests.unit.connectors.objects.reading import good, pages_of, reader_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ['"', "\r", "\n", "a\r\nb", ",", ";", "\x00", "\ufeff", "\u2028", "=1+1", "null", "01", "NaN", " x "]
)
PRINTED = TEXTS.filter(lambda text: not any(one < " " and one not in "\t\r\n" for one in text))
"""What has other control characters is not taken for a text when it is read."""

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
EXAMPLES = settings(max_examples=30)

COLUMNS = (
    TEXTS, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.lists(TEXTS, max_size=2), st.fixed_dictionaries({"x": st.integers(0, 9), "y": st.lists(TEXTS)}),
)  # fmt: skip
"""What the values of a Parquet column may be."""

TABLES = st.lists(
    st.fixed_dictionaries({f"column {at}": st.none() | column for at, column in enumerate(COLUMNS)}),
    min_size=1,
    max_size=6,
)


@pytest.mark.slow
@EXAMPLES
@given(records=st.lists(st.dictionaries(TEXTS, JSON, min_size=1, max_size=3), min_size=1, max_size=5))
async def test_json_lines_give_the_same_records(records: list[dict[str, Any]]) -> None:
    data, failures = encode_jsonl(records)
    assert not failures
    assert good(await pages_of(reader_of(data), format="jsonl")) == records


@EXAMPLES
@given(
    rows=st.lists(st.tuples(PRINTED, PRINTED), min_size=1, max_size=5),
    delimiter=st.sampled_from([",", ";", "\t", "|", " ", "ä"]),
)
async def test_csv_gives_the_same_texts(rows: list[tuple[str, str]], delimiter: str) -> None:
    data, failures = encode_csv([{"a": one, "b": two} for one, two in rows], [], delimiter, header=True)
    assert not failures
    texts = dict.fromkeys("ab", "text")
    found = good(await pages_of(reader_of(data), format="csv", delimiter=delimiter, types=texts))
    assert [(row["a"] or "", row["b"] or "") for row in found] == rows


@pytest.mark.slow
@EXAMPLES
@given(records=TABLES)
async def test_parquet_gives_the_same_records(records: list[dict[str, Any]]) -> None:
    data, failures = encode_parquet(records, [], {}, "none")
    assert not failures
    assert good(await pages_of(reader_of(data), format="parquet")) == records
