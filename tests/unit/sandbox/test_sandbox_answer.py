"""Answers follow the requested schema."""

from __future__ import annotations

import hashlib

import pytest

from engine.sandbox.llm.answer import answer_for
from engine.sandbox.llm.documents import PromptDocument
from engine.sandbox.llm.schema import coerce, iso_date, slots

NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}
SLOT = {
    "type": "object",
    "properties": {"nonce": {"type": "string"}, "doctor": NULLABLE, "patient_age": NULLABLE},
}


def document(slot: str, text: str, *images: bytes) -> PromptDocument:
    return PromptDocument(slot, f"nonce-{slot}", f"{slot}.txt", text, images)


def test_each_slot_is_answered_from_its_own_document() -> None:
    schema = {"type": "object", "properties": {"r1": SLOT, "r2": SLOT}}
    documents = [document("r2", "Doctor: Dr. Two\nAge: 2"), document("r1", "Doctor: Dr. One")]
    assert answer_for(documents, schema, {}) == {
        "r1": {"nonce": "nonce-r1", "doctor": "Dr. One", "patient_age": None},
        "r2": {"nonce": "nonce-r2", "doctor": "Dr. Two", "patient_age": "2"},
    }


def test_slots_may_share_a_definition() -> None:
    schema = {"properties": {"r1": {"$ref": "#/$defs/Memo"}}, "$defs": {"Memo": SLOT}}
    assert list(slots(schema)) == ["r1"]
    assert answer_for([document("r1", "Age: 3")], schema, {}) == {
        "r1": {"nonce": "nonce-r1", "doctor": None, "patient_age": "3"}
    }


def test_a_definition_that_refers_to_itself_ends() -> None:
    assert slots({"properties": {"r1": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}}) == {}


def test_a_flat_schema_is_answered_from_the_first_document() -> None:
    schema = {"type": "object", "properties": {"doctor": NULLABLE}}
    assert answer_for([document("r1", "Doctor: Dr. One")], schema, {}) == {"doctor": "Dr. One"}


def test_a_slot_without_a_document_is_null() -> None:
    assert answer_for([], {"properties": {"r1": SLOT}}, {}) == {
        "r1": {"nonce": None, "doctor": None, "patient_age": None}
    }


def test_known_image_gives_its_transcript_unknown_one_nothing() -> None:
    schema = {"type": "object", "properties": {"doctor": NULLABLE}}
    known = {hashlib.sha256(b"image").hexdigest(): "Doctor: Dr. Scan"}
    assert answer_for([document("r1", "", b"image")], schema, known) == {"doctor": "Dr. Scan"}
    assert answer_for([document("r1", "", b"other")], schema, known) == {"doctor": None}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "41 years"),
        ({"type": ["string", "null"]}, "41 years"),
        ({"type": "integer"}, 41),
        ({"type": "number"}, 41.0),
        ({"type": "boolean"}, None),
        ({"enum": ["41 YEARS", "other"]}, "41 YEARS"),
        ({"enum": ["other"]}, None),
        ({}, "41 years"),
    ],
)
def test_a_value_takes_the_type_that_the_schema_asks_for(schema: dict[str, object], expected: object) -> None:
    assert coerce("41 years", schema) == expected


@pytest.mark.parametrize(
    "written",
    [
        "2025-03-09",
        "2025-03-09 10:30",
        "03/09/2025",
        "9.3.2025",
        "March 9, 2025",
        "Mar 9th 2025",
        "9 March 2025",
    ],
)
def test_a_date_is_normalised_only_when_the_schema_says_date(written: str) -> None:
    assert coerce(written, {"type": "string"}) == written
    assert coerce(written, {"type": "string", "format": "date"}) == "2025-03-09"


@pytest.mark.parametrize("written", ["soon", "2025-02-30", "Foo 9, 2025"])
def test_an_invalid_date_has_no_iso_form(written: str) -> None:
    assert iso_date(written) is None
