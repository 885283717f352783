"""JSON lines keep every number exactly."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.files import JsonlSink, JsonlSinkParams, JsonlSource, JsonlSourceParams
from connectors.json_lines import dump_records, has_long_number, parse_line, parse_lines
from engine.errors import RecordError
from engine.execution.engine import Engine
from engine.state import DeadLetterFilter
from engine.testing import FaultySink, linear_plan

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
    | st.integers(-(10**60), 10**60),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
RECORDS = st.dictionaries(TEXTS, VALUES, max_size=5)


@pytest.mark.slow
@given(RECORDS)
def test_written_values_are_read_back_exactly(record: dict[str, Any]) -> None:
    for pretty in (False, True):
        line, failures = dump_records([record], pretty=pretty)
        assert failures == {}
        assert parse_line(line, "x:1") == record


@pytest.mark.parametrize("line", ["[", "{", '[{"a": 1},', '{"a": 1}{"a": 2}', '{"a": 1}, {"a": 2}', "[{}]"])
def test_json_of_another_layout_is_pointed_to_its_format(line: str) -> None:
    with pytest.raises(RecordError, match="`format: json`"):
        parse_line(line.encode(), "x:1")


@pytest.mark.slow
@given(RECORDS)
def test_lines_of_other_writers_are_read_exactly(record: dict[str, Any]) -> None:
    assert parse_line(json.dumps(record).encode(), "x:1") == record


@given(st.integers())
def test_integers_that_orjson_would_round_are_noticed(number: int) -> None:
    if not -(2**63) <= number < 2**64:
        assert has_long_number(b'{"n":%d}' % number)


def test_usual_numbers_are_not_mistaken_for_long_ones() -> None:
    line = orjson.dumps(
        {"ns": 1_790_000_000_123_456_789, "card": "4111111111111111", "f": math.pi, "n": -(2**53)}
    )
    assert not has_long_number(line * 3)


def test_a_record_beside_a_long_number_is_written_as_always() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    lines, failures = dump_records([{"n": 2**70, "at": now, "set": {1}, "nan": math.nan}])
    assert (failures, json.loads(lines)) == ({}, {"n": 2**70, "at": now.isoformat(), "set": [1], "nan": None})


def test_decimals_are_written_with_all_their_digits() -> None:
    digits = "12345678901234567.891"
    record = {
        "n": Decimal("1.10"),
        "of": [Decimal(digits), Decimal(2**80)],
        "b": b"\xff",
        "t": timedelta(1),
    }
    lines, failures = dump_records([record])
    assert failures == {}
    assert json.loads(lines) == {"n": 1.1, "of": [digits, 2**80], "b": "/w==", "t": 86400.0}


@pytest.mark.parametrize(
    "record", [{"n": 2**70, "x": object()}, {"n": 2**70, 1: 2}, {"n": 10**5000}, {"x": "\ud800"}]
)
def test_values_without_a_json_form_are_refused(record: dict[Any, Any]) -> None:
    lines, failures = dump_records([record, {"n": 1}])
    assert lines == b'{"n":1}\n'
    assert failures[0].kind == "NotJson"


@pytest.mark.parametrize(
    "line",
    [
        b'{"n": NaN}',
        b'{"n": Infinity}',
        b'{"n": 1' + b"0" * 5000 + b"}",
        b'{"n": ' + b"[" * 3000 + b"1" * 30 + b"]" * 3000 + b"}",
        b'{"n": "\\ud800"}',
        b'{"n": 01234567890123456789012}',
        b'{"n": "\xe9"}',
        b"123456789012345678901234567890",
    ],
)
def test_a_line_that_is_no_record_is_a_record_error(line: bytes) -> None:
    with pytest.raises(RecordError) as raised:
        parse_line(line, "x.jsonl:7")
    assert raised.value.kind == "BrokenLine"
    assert str(raised.value).startswith("x.jsonl:7")


async def test_long_integers_go_from_file_to_file_and_name_records(tmp_path: Path) -> None:
    lines = [{"id": 2**64 + number, "n": [-(2**63) - 1]} for number in range(5)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in [{"id": 1}, *lines]))
    reading = JsonlSource(JsonlSourceParams(path=str(source), key="id"))
    writing = JsonlSink(JsonlSinkParams(path=str(tmp_path / "out.jsonl")))
    async with Engine() as engine:
        report = await engine.run(linear_plan(reading, writing))
    assert report.ok, report.error
    written = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == [{"id": 1}, *lines]


@pytest.mark.slow
async def test_a_dead_letter_has_long_integers_digit_by_digit(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    record = {"n": 2**70 + 1, "deep": [{"m": -(10**30)}]}
    source.write_text(json.dumps(record) + "\n")
    reading = JsonlSource(JsonlSourceParams(path=str(source)))
    async with Engine(state_dir=tmp_path) as engine:
        await engine.run(linear_plan(reading, FaultySink(poison=lambda _: True)))
        (letter,) = await engine.store.dead_letters(DeadLetterFilter())
    assert letter.record == record


BRACES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text('{},[]:"\\ab', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("},{a", max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.lists(st.dictionaries(st.text("},{a", max_size=4), BRACES, max_size=3), max_size=5))
def test_records_are_the_same_lines_together_and_alone(records: list[dict[str, Any]]) -> None:
    lines, failures = dump_records(records)
    assert lines == b"".join(dump_records([record])[0] for record in records)
    assert [json.loads(line) for line in lines.splitlines()] == records
    assert not failures


def test_a_text_that_looks_like_a_boundary_does_not_replace_one() -> None:
    records: list[Any] = [{"a": "},{"}, OrderedDict(b=5)]
    assert dump_records(records) == (b'{"a":"},{"}\n{"b":5}\n', {})


@pytest.mark.parametrize("value", [5, "text", None, [{"a": 1}]])
def test_a_value_that_is_not_a_record_fails_alone(value: Any) -> None:
    lines, failures = dump_records([{"a": 1}, value])
    assert lines == b'{"a":1}\n'
    assert {place: error.kind for place, error in failures.items()} == {1: "NotAnObject"}


def test_a_record_behind_a_gap_of_zeros_is_read() -> None:
    """Who writes on at its old place after the file was cut off leaves zeros before the next line."""
    assert parse_line(b"\0" * 80 + b'{"a": 1}', "a:1") == {"a": 1}
    for line in (b"\0" * 80, b'{"a": \0 1}', b"\0x"):
        with pytest.raises(RecordError, match=r"^a:1:[17]: "):
            parse_line(line, "a:1")


@pytest.mark.parametrize(
    "lines",
    [
        [b'{"a":1}, {"b":2}', b'{"c":[{}', b"{}]}"],
        [b'{"c":[{}', b"{}]}", b'{"a":1}, 0, {"b":2}'],
        [b'{"a":1}],[{"b":2}', b"{}"],
        [b'{"a":1},'],
        [b'{"a":1}', None],
        [b'{"a":1}', b""],
        [b'{"a":1}', b"[1]"],
        [b'{"a":1}', b'{"a":18446744073709551616}'],
    ],
)
def test_lines_that_only_pass_together_are_not_records(lines: list[bytes | None]) -> None:
    assert parse_lines(lines) is None


@given(st.lists(st.dictionaries(st.text("},{a", max_size=4), BRACES, max_size=3), min_size=1, max_size=5))
def test_lines_parsed_together_are_the_records(records: list[dict[str, Any]]) -> None:
    lines = [json.dumps(record).encode() for record in records]
    assert parse_lines(lines) == (None if has_long_number(b"\n".join(lines)) else records)
