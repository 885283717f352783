"""Fields that are declared in the file."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from connectors.llm.replies import normalise
from connectors.llm.settings import LlmParams

FIELDS: dict[str, Any] = {
    "vendor": {"description": "Who sent the invoice", "example": "ACME Ltd", "required": True},
    "total": {"type": "decimal"},
    "due": {"type": "date"},
    "currency": {"enum": ["EUR", "USD"]},
    "stars": {"type": "integer", "enum": [1, 2, 3]},
    "lines": {"type": "list[text]"},
}


def params(**fields: Any) -> LlmParams:
    return LlmParams.model_validate({"fields": fields})


def test_declared_fields_are_asked_for_and_validated() -> None:
    schema = params(**FIELDS).target_schema()
    assert set(schema.fields) == set(FIELDS)
    assert schema.required == {"vendor"}
    assert "- vendor: Who sent the invoice (for example ACME Ltd)" in schema.describe()
    said = {
        "vendor": "X",
        "total": "1.50",
        "due": "2026-01-31",
        "currency": "EUR",
        "stars": 2,
        "lines": ["a"],
    }
    assert schema.validated(normalise(said, schema)) == said
    assert schema.validated(normalise({"vendor": "X"}, schema))["due"] is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"due": {"type": "day"}}, r"fields.due.type\n.*expected one of text, .*such as list\[text\]"),
        ({"due": {"type": ["str"]}}, "expected one of text"),
        ({"due": {"type": ["str", None]}}, "null is allowed unless"),
        ({"due": {"type": "date?"}}, "null is allowed unless"),
        ({"a b": {}}, "`a b` cannot be the name of a field"),
        ({"nonce": {}}, "none called `nonce`"),
        ({"id": {}}, "must have fields to extract"),
        ({"a": {"kind": "text"}}, "Extra inputs"),
        ({"model_config": {}}, "`model_config` cannot be the name of a field"),
        ({}, "must have fields to extract"),
        ({"a": {"enum": [None, "x"]}}, "null is allowed unless"),
        ({"a": {"enum": [float("nan")]}}, "expected texts, numbers, true or false"),
        ({"a": {"type": "integer", "enum": ["x"]}}, "`enum`: 'x' does not fit the type integer"),
        ({"a": {"type": "text", "enum": [1]}}, "type text; put quotes around it"),
        ({"a": {"type": "integer", "example": "x"}}, "`example`: 'x' does not fit"),
        ({"a": {"type": "date", "example": "31.01.2026"}}, "`example`: '31.01.2026' does not fit"),
        ({"a": {"enum": ["x"], "example": "y"}}, "`example`: 'y' does not fit"),
        ({"a": {"enum": [True, False, "unknown"]}}, "YAML reads yes, no, on and off as true or false"),
    ],
)
def test_what_cannot_be_declared_is_reported_by_name(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        params(**fields)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("decimal", {"type": "decimal"}),
        (None, {}),
        ({"type": "String"}, {"type": "text"}),
        ({"type": "date", "example": date(2026, 1, 31)}, {"type": "date", "example": "2026-01-31"}),
        ({"enum": [date(2026, 1, 31), "never"]}, {"enum": ["2026-01-31", "never"]}),
    ],
)
def test_a_field_may_be_declared_as_people_write_it(short: object, long: dict[str, Any]) -> None:
    asked = params(a=short).target_schema()
    assert (asked.record(), asked.describe()) == (
        params(a=long).target_schema().record(),
        params(a=long).target_schema().describe(),
    )


@pytest.mark.parametrize(
    ("kind", "example", "said"),
    [
        ("text", 42, "42"),
        ("list[text]", "one item", "one item"),
        ("list[integer]", [1], "[1]"),
        ("decimal", 12.5, "12.5"),
        ("boolean", True, "true"),
    ],
)
def test_an_example_may_be_an_item_or_a_number(kind: str, example: object, said: str) -> None:
    described = params(a={"type": kind, "example": example}).target_schema().describe()
    assert f"for example {said}" in described


@pytest.mark.parametrize("day", [date(2026, 1, 31), datetime(2026, 1, 31, 9, 30, tzinfo=UTC)])
def test_an_answer_that_yaml_reads_as_a_date_is_text(day: date) -> None:
    answer = {"day": day, "days": [day]}
    fields = {"day": {}, "days": {"type": "list[text]"}}
    read = LlmParams.model_validate({"fields": fields, "examples": [{"text": "x", "answer": answer}]})
    assert read.examples[0].answer == {"day": day.isoformat(), "days": [day.isoformat()]}


def test_fields_may_be_called_as_methods_are() -> None:
    assert list(params(copy={}, json={}, dict={}).target_schema().fields) == ["copy", "json", "dict"]


def test_validate_says_under_which_name_the_id_goes_out() -> None:
    assert params(**FIELDS).notes() == [
        "its records carry the id of their document as `id`, besides the schema's fields"
    ]
    assert LlmParams.model_validate({"schema": "Medical"}).notes() == []


class Numbered(BaseModel):
    id: int
    name: str


def test_validate_notes_an_id_that_does_not_take_every_text() -> None:
    (note,) = LlmParams.model_validate({"schema": f"{__name__}:Numbered"}).notes()
    assert note.startswith("`id` of its schema does not accept every text")


def test_a_schema_and_fields_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="not both"):
        LlmParams.model_validate({"schema": "Medical", "fields": {"a": {}}})
