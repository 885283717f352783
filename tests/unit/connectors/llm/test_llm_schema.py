"""Target models as strict schemas."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from connectors.llm import Document, LlmParams
from connectors.llm.answer_length import AnswerLength
from connectors.llm.forecast import forecast
from connectors.llm.schema import target_schema
from engine.errors import FatalError


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    street: str
    number: int | None = None


class Line(BaseModel):
    sku: str
    price: float
    note: str | None = None


class Table(BaseModel):
    title: str
    lines: list[Line]


class Tree(BaseModel):
    name: str
    parent: Tree | None = None


class Sums(BaseModel):
    sums: dict[str, float]


class Order(BaseModel):
    title: str
    lines: list[Line] | str | None


class Wide(BaseModel):
    id: str
    title: str = Field(description="As printed", max_length=10)
    count: Annotated[int, Field(ge=0)]
    share: float | None
    done: bool = False
    level: Literal["low", "high"]
    colour: Colour
    tags: list[str]
    address: Address | None = None


class NoncePretender(BaseModel):
    nonce: str


class Bare(BaseModel):
    id: str
    source_file_path: str


def objects(schema: object) -> list[dict[str, object]]:
    if isinstance(schema, list):
        return [found for item in schema for found in objects(item)]
    if not isinstance(schema, dict):
        return []
    inner = [found for item in schema.values() for found in objects(item)]
    return [schema, *inner] if schema.get("type") == "object" else inner


def test_medical_is_asked_for_without_what_the_pipeline_knows() -> None:
    schema = target_schema("Medical")
    assert set(schema.fields) == schema.required
    assert set(schema.fields) == {
        "patient_name",
        "patient_age",
        "phone_number",
        "scheduled_appointment_date",
        "dental_procedure_name",
        "doctor",
    }


def test_the_schema_stays_within_strict_decoding() -> None:
    document = target_schema(f"{__name__}:Wide").slots(["r1", "r2"])
    Draft202012Validator.check_schema(document)
    assert document["required"] == ["r1", "r2"]
    for found in objects(document):
        assert found["additionalProperties"] is False
        assert found["required"] == list(found["properties"])  # type: ignore[call-overload]
    assert "maxLength" not in str(document)
    assert "minimum" not in str(document)


def test_every_field_may_be_null_and_the_nonce_may_not() -> None:
    schema = target_schema(f"{__name__}:Wide")
    validator = Draft202012Validator(schema.slots(["r1"]))
    nothing = {"r1": {"nonce": "n"} | dict.fromkeys(schema.fields)}
    assert validator.is_valid(nothing)
    assert not validator.is_valid({"r1": nothing["r1"] | {"nonce": None}})
    assert not validator.is_valid({"r1": nothing["r1"] | {"count": "3"}})
    assert not validator.is_valid({"r1": nothing["r1"] | {"level": "middle"}})
    assert validator.is_valid(
        {"r1": nothing["r1"] | {"level": "low", "colour": "red", "tags": ["a"], "count": 3}}
    )
    assert validator.is_valid({"r1": nothing["r1"] | {"address": {"street": None, "number": 4}}})


def test_required_are_the_fields_without_default_that_know_no_null() -> None:
    assert target_schema(f"{__name__}:Wide").required == {"title", "count", "level", "colour", "tags"}


def test_fields_are_described_to_the_model() -> None:
    assert (
        "- title: As printed (at most 10 characters)\n- count: at least 0\n- share\n"
        in target_schema(f"{__name__}:Wide").describe()
    )


@pytest.mark.parametrize(
    "name", ["Nobody", "no.such:Model", "json:dumps", f"{__name__}:NoncePretender", f"{__name__}:Bare"]
)
def test_what_cannot_be_extracted_is_said_before_anything_is_spent(name: str) -> None:
    with pytest.raises(FatalError, match="`schema`"):
        target_schema(name)


def test_an_answer_has_room_for_every_line_of_a_table() -> None:
    lines = [{"sku": f"SKU-{line:05}", "price": f"{line}.50", "note": None} for line in range(600)]
    table = Document.of_text("a.csv", "\n".join(f"{one['sku']};{one['price']};" for one in lines))
    fields = {"sku": "text", "price": "decimal", "note": "text"}
    for given in ({"fields": fields, "many": True}, {"schema": f"{__name__}:Table"}):
        limit = AnswerLength(LlmParams.model_validate(given).asked_schema()).of([table])
        assert limit > len(json.dumps(lines, separators=(",", ":"))) / 3  # three bytes to a token


def test_an_answer_without_lists_reserves_little() -> None:
    text = Document.of_text("a.txt", "word " * 1_000)
    limits = [
        AnswerLength(LlmParams.model_validate({"fields": {"a": kind}}).asked_schema()).of([text])
        for kind in ("text", "list[text]")
    ]
    assert limits == [512, 1394]


@pytest.mark.parametrize("model", [Tree, Sums])
def test_an_answer_of_any_depth_or_keys_has_room(model: type[BaseModel]) -> None:
    text = Document.of_text("a.txt", "word " * 1_000)
    schema = LlmParams.model_validate({"schema": f"{__name__}:{model.__name__}"}).asked_schema()
    assert 4 * text.tokens <= AnswerLength(schema).of([text]) <= 5 * text.tokens


@pytest.mark.parametrize("model", [Table, Order])
def test_an_estimate_counts_the_fields_of_nested_lists(model: type[BaseModel]) -> None:
    document = Document.of_text("a.txt", "word " * 1_000)
    given = LlmParams.model_validate({"schema": f"{__name__}:{model.__name__}"})
    nested = forecast(given, "m", [document], 1)
    lines = [{"sku": "short text", "price": 12.5, "note": "short text"}] * 3
    stated = json.dumps({"title": "short text", "lines": lines})
    assert nested.tokens_out == pytest.approx(len(stated) / 4, rel=0.1)
    assert "short answers in every field, 3 items in every list" in nested.notes


def test_a_budget_reserves_what_a_table_takes() -> None:
    table = Document.of_text("a.csv", "SKU-1;0.50\n" * 600)
    lengths = [
        AnswerLength(LlmParams.model_validate(given).asked_schema()).usual([table])
        for given in ({"fields": {"a": "text"}}, {"schema": f"{__name__}:Table"})
    ]
    assert lengths == [16, 32 + table.tokens]
