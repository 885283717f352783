"""Fields that are declared in the file."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.llm.normalise import normalise
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
    ],
)
def test_what_cannot_be_declared_is_said_by_name(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        params(**fields)


def test_fields_may_be_called_as_methods_are() -> None:
    assert list(params(copy={}, json={}, dict={}).target_schema().fields) == ["copy", "json", "dict"]


def test_validate_says_under_which_name_the_id_goes_out() -> None:
    assert params(**FIELDS).notes() == [
        "its records carry the id of their document as `id`, besides the schema's fields"
    ]
    assert LlmParams.model_validate({"schema": "Medical"}).notes() == []


def test_a_schema_and_fields_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="not both"):
        LlmParams.model_validate({"schema": "Medical", "fields": {"a": {}}})
