"""Files of records with odd field names: a record is written correctly, or fails alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.files.sink import FilesSink, FilesSinkParams
from connectors.objects.encoding import encode_csv
from connectors.objects.parquet_encoding import encode_parquet
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.errors import BatchError

names = st.one_of(
    st.sampled_from(["", " ", "\0", "\ud800", "a\rb", "a\nb", 'a"b', "a,b", "x" * 5000, 1, None, ("a",)]),
    st.text(max_size=3),
)
records = st.one_of(
    st.dictionaries(names, st.text(st.characters(codec="utf-8"), max_size=3), max_size=4),
    st.sampled_from([None, 5, "a", [1]]),
)
EXAMPLES = [{"\ud800": "1"}, {"a": "b\rc", "a\rb": "\r"}, {1: "x"}, {}, 5]


def fits(record: Any) -> bool:
    try:
        return isinstance(record, dict) and "".join(record).encode() is not None
    except (TypeError, UnicodeEncodeError):
        return False


def expected(rows: Sequence[Any], missing: Any) -> list[dict[str, Any]]:
    good = [row for row in rows if fits(row)]
    columns = list(dict.fromkeys(name for row in good for name in row))
    return [{name: row.get(name, missing) for name in columns} for row in good] if columns else []


@pytest.mark.slow
@given(rows=st.lists(records, max_size=4))
@example(rows=EXAMPLES)
@example(rows=[{}])
def test_csv_holds_every_record_that_does_not_fail(rows: list[Any]) -> None:
    data, failures = encode_csv(rows, [], ",", header=True)

    lines = list(csv.reader(io.StringIO(data.decode(), newline="")))
    if wanted := expected(rows, ""):
        assert [dict(zip(lines[0], line, strict=True)) for line in lines[1:]] == wanted
        assert failures.keys() == {index for index, row in enumerate(rows) if not fits(row)}
    else:
        assert failures.keys() == set(range(len(rows)))
    assert {error.kind for error in failures.values()} <= {"NotCsv"}


@pytest.mark.slow
@given(rows=st.lists(records, max_size=4))
@example(rows=EXAMPLES)
@example(rows=[{}])
def test_parquet_holds_every_record_that_does_not_fail(rows: list[Any]) -> None:
    data, failures = encode_parquet(rows, [], {}, "zstd")

    if wanted := expected(rows, None):
        assert pq.read_table(io.BytesIO(data)).to_pylist() == wanted
        assert failures.keys() == {index for index, row in enumerate(rows) if not fits(row)}
    else:
        assert failures.keys() == set(range(len(rows)))
    assert {error.kind for error in failures.values()} <= {"NotParquet"}


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
async def test_a_record_with_an_odd_name_leaves_the_others_of_its_file(tmp_path: Path, kind: Any) -> None:
    batch = Batch([{"id": 1}, {"\ud800": 2}, {1: 3}, {"id": 4}], KeyRange("k/", 0, 4))

    async with FilesSink(FilesSinkParams(path=str(tmp_path), format=kind)) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch)

    assert sorted(caught.value.failures) == [1, 2]
    assert len(list(tmp_path.glob(f"*.{kind}"))) == 1  # noqa: ASYNC240 - a folder of one file


def test_names_of_columns_that_are_left_out_do_not_matter() -> None:
    assert encode_csv([{"a": 1, "\ud800": 2}], ["a"], ",", header=True) == (b"a\n1\n", {})
