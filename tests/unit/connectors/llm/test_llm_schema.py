"""Target models as strict schemas."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from connectors.llm.schema import target_schema
from engine.errors import FatalError


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    street: str
    number: int | None = None


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
