"""Answers of models without strict decoding: no value is lost, invented or misread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Flag, IntFlag
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from connectors.llm.completion import Reply, read_body, read_completion
from connectors.llm.json_text import parse
from connectors.llm.refusals import Cause, Refusal, cause_of
from connectors.llm.replies import match_slots, normalise, read_lone
from connectors.llm.schema import schema_of
from engine.errors import FatalError


class Loose(BaseModel):
    pay: Decimal | None = None
    count: int | None = None
    rate: float | None = None
    day: date | None = None
    at: datetime | None = None
    clock: time | None = None
    lasts: timedelta | None = None
    since: datetime | str | None = None
    kind: Literal["a", "b"] | None = None
    tags: list[str] = []
    note: str = ""
    lab: dict[str, float] = {}


LOOSE = schema_of(Loose)


def read(answer: str) -> dict[str, Any]:
    return LOOSE.validated(normalise(parse(answer), LOOSE))


@pytest.mark.parametrize(
    ("answer", "field", "value"),
    [
        ('{"pay": 12345678901234567890.12}', "pay", "12345678901234567890.12"),
        ('{"pay": 12.50}', "pay", "12.50"),
        ('{"kind": "A"}', "kind", "a"),
        ('{"since": "2026-01-02"}', "since", "2026-01-02"),
        ('{"tags": "[\\"a\\"]"}', "tags", ["a"]),
        ('{"note": {"value": "a", "confidence": 0.9}}', "note", "a"),
        ('{"lab": "{\\"x\\": 1.5}"}', "lab", {"x": 1.5}),
        ('{"rate": NaN}', "rate", None),
    ],
)
def test_a_value_said_loosely_keeps_what_it_says(answer: str, field: str, value: object) -> None:
    assert read(answer)[field] == value


@pytest.mark.parametrize(
    "answer",
    [
        '{"count": true}',
        '{"rate": true}',
        '{"rate": 1e400}',
        '{"rate": "nan"}',
        '{"rate": "Infinity"}',
        '{"lab": {"x": 1e400}}',
        '{"at": "2026"}',
        '{"at": 2026}',
        '{"day": 1778544000}',
        '{"clock": 1030}',
        '{"lasts": 90}',
        '{"note": {"first": "Ann"}}',
        '{"rate": {"value": 5, "unit": "mg"}}',
        '{"note": {"value": "5", "currency": "EUR"}}',
        '{"note": ["Ann", {"first": "Bob"}]}',
    ],
)
def test_a_value_that_would_have_to_be_guessed_is_none(answer: str) -> None:
    with pytest.raises(ValidationError):
        read(answer)


class Right(Flag):
    READ = 1
    WRITE = 2


class Bits(IntFlag):
    ONE = 1
    TWO = 2


class Combined(BaseModel):
    rights: Right
    bits: Bits


def test_a_flag_is_asked_for_as_a_sum() -> None:
    schema = schema_of(Combined)
    assert schema.record()["$defs"]["Right"] == {"type": "integer"}
    assert "1 for READ, 2 for WRITE" in schema.describe()
    assert schema.validated(normalise({"rights": 3, "bits": 3}, schema)) == {"rights": 3, "bits": 3}


class Pairs(BaseModel):
    by_place: dict[tuple[int, int], str]


def test_keys_that_no_json_object_has_are_refused() -> None:
    with pytest.raises(FatalError, match=r"`by_place`: its keys .* not tuples"):
        schema_of(Pairs)


NONCES = {"r1": "aa", "r2": "bb"}


@pytest.mark.parametrize(
    "content",
    [
        {"r1": {"nonce": "aa", "data": {"note": "1"}}, "r2": {"nonce": "bb", "data": {"note": "2"}}},
        {"r1": {"Nonce": "AA", "note": "1"}, "r2": {"NONCE": "bb", "note": "2"}},
    ],
)
def test_slots_are_read_inside_of_wrappers(content: Mapping[str, Any]) -> None:
    found = match_slots(json.dumps(content), NONCES, LOOSE.spellings)
    assert found is not None
    assert {slot: values["note"] for slot, values in found.answers.items()} == {"r1": "1", "r2": "2"}


def test_a_slot_has_no_values_of_the_document_inside_of_it() -> None:
    content = {"nonce": "aa", "r2": {"nonce": "bb", "note": "2"}}
    found = match_slots(json.dumps(content), NONCES, LOOSE.spellings)
    assert found is not None
    assert found.answers == {}


def test_the_same_record_twice_is_one_answer() -> None:
    found = read_lone(json.dumps([{"note": "a"}, {"note": "a"}]), "r1", LOOSE.spellings)
    assert found is not None
    assert found.answers == {"r1": {"note": "a"}}


J = '{"who": "Ann"}'


def call(arguments: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "T", "arguments": arguments}}


CHOICE = {"message": {"content": J}}


@pytest.mark.parametrize("choices", [CHOICE, {"0": CHOICE}, [CHOICE]])
@pytest.mark.parametrize("guard", ["", ")]}'\n", "while(1);"])
def test_choices_are_read_in_an_object_and_after_a_guard(choices: object, guard: str) -> None:
    found = read_completion(read_body(f"{guard}{json.dumps({'choices': choices})}".encode()))
    assert isinstance(found, Reply)
    assert found.content == J


@pytest.mark.parametrize(
    "choices",
    [
        [{"message": {"content": "I call it.", "tool_calls": [call(J)]}}],
        [{"message": {"content": "I call it."}}, {"message": {"content": None, "tool_calls": [call(J)]}}],
        [{"index": 1, "message": {"content": "{}"}}, {"index": 0, "message": {"content": J}}],
        [{"index": 0, "message": {"content": ""}}, {"index": 1, "message": {"content": J}}],
    ],
    ids=["text and call", "apart", "another order", "an empty one"],
)
def test_the_answer_is_found_among_texts_calls_and_choices(choices: list[Any]) -> None:
    found = read_completion({"choices": choices})
    assert isinstance(found, Reply)
    assert found.content == J


def test_calls_for_single_slots_are_read_together() -> None:
    parts = [call(json.dumps({slot: {"nonce": nonce}})) for slot, nonce in NONCES.items()]
    found = read_completion({"choices": [{"message": {"content": None, "tool_calls": parts}}]})
    assert isinstance(found, Reply)
    reading = match_slots(found.content, NONCES)
    assert reading is not None
    assert reading.answers.keys() == NONCES.keys()


def test_another_choice_of_a_stream_is_not_mixed_in() -> None:
    events = [{"index": 0, "delta": {"content": J[:5]}}, {"index": 1, "delta": {"content": "no"}}]
    events.append({"index": 0, "delta": {"content": J[5:]}, "finish_reason": "stop"})
    body = "".join(f"data: {json.dumps({'choices': [one]})}\n\n" for one in events)
    found = read_completion(read_body(body.encode()))
    assert isinstance(found, Reply)
    assert found.content == J


WRITTEN = {"cache_creation_input_tokens": 50}
CONTENT = {"cachedContentTokenCount": 4}
DEEP = "A schema in GenerationConfig in the request exceeds the maximum allowed nesting depth."
FILTERED = {"message": "The response was filtered", "code": "content_filter"}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (
            {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 100, **WRITTEN},
            (160, 2, 100),
        ),
        ({"prompt_tokens": 160, "completion_tokens": 2, "cache_read_input_tokens": 100}, (160, 2, 100)),
        ({"tokens": {"input_tokens": 3, "output_tokens": 1}}, (3, 1, 0)),
        ({"inputTokens": 3, "outputTokens": 1}, (3, 1, 0)),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 2, "totalTokenCount": 31, **CONTENT},
            (9, 22, 4),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 4}, (9, 2, 4)),
    ],
    ids=["anthropic", "litellm", "cohere", "bedrock", "gemini", "moonshot"],
)  # fmt: skip
def test_tokens_are_booked_as_vendors_count_them(usage: object, expected: tuple[int, int, int]) -> None:
    found = read_completion({"choices": [{"message": {"content": J}}], "usage": usage})
    assert isinstance(found, Reply)
    assert (found.tokens_in, found.tokens_out, found.tokens_cached) == expected


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"message": DEEP}, Cause.FORMAT),
        (404, {"message": "Unable to access model m", "code": "model_not_available"}, Cause.MODEL),
        (400, {"message": "Failed to generate JSON.", "code": "json_validate_failed"}, Cause.BUSY),
        (200, {**FILTERED, "status": 400}, Cause.FILTERED),
        (200, FILTERED, Cause.FILTERED),
    ],
)  # fmt: skip
def test_what_a_few_more_errors_are_about(status: int, error: Mapping[str, Any], expected: Cause) -> None:
    found = read_completion({"error": error}) if status == 200 else Refusal.of_body(status, {"error": error})
    assert isinstance(found, Refusal)
    assert cause_of(found) is expected


def test_a_year_is_a_text_where_a_moment_or_a_text_may_be() -> None:
    """Pydantic takes "2026" for seconds since 1970 even where a text fits."""

    class Mixed(BaseModel):
        seen: datetime | str
        due: str | datetime
        left: datetime | int
        all: list[datetime | str]

    schema = schema_of(Mixed)
    answer = {"seen": "2026", "due": 2026, "left": "2026", "all": ["1735689600", "2026-01-02T00:00:00"]}
    expected = {"seen": "2026", "due": "2026", "left": 2026, "all": ["1735689600", "2026-01-02T00:00:00"]}
    assert schema.validated(normalise(answer, schema)) == expected


def test_a_year_is_a_text_inside_of_values_too() -> None:
    class Seen(BaseModel):
        at: datetime | str

    class Mixed(BaseModel):
        one: Seen
        several: list[Seen] | None
        listed: list[datetime | str] | None
        named: dict[str, datetime | str]
        placed: tuple[int, datetime | str]

    schema = schema_of(Mixed)
    answer = {
        "one": {"at": "2026"},
        "several": [{"at": "2026"}, {"at": "soon"}],
        "listed": ["2026", "2027"],
        "named": {"a": "2026", "b": "soon"},
        "placed": [1, "2026"],
    }
    assert schema.validated(normalise(answer, schema)) == answer
