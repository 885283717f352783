"""The rules find the values in every sample memo, and are not misled."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import docx
import pypdfium2
import pytest

from engine.sandbox.llm.answer import extract_fields
from engine.sandbox.server import DEFAULT_SAMPLES

TRUTH: dict[str, dict[str, str] | str] = json.loads((DEFAULT_SAMPLES / "truth.json").read_bytes())
GOOD = {path: fields for path, fields in TRUTH.items() if isinstance(fields, dict)}
FIELDS = (
    "patient_name",
    "patient_age",
    "phone_number",
    "scheduled_appointment_date",
    "dental_procedure_name",
    "doctor",
)


def text_of(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".pdf":
        pages = pypdfium2.PdfDocument(data)
        return "\n".join(page.get_textpage().get_text_range() for page in pages)
    if path.suffix == ".docx":
        return "\n".join(docx_lines(data))
    if path.suffix == ".png":
        transcripts: dict[str, str] = json.loads((DEFAULT_SAMPLES / "transcripts.json").read_bytes())
        return transcripts[hashlib.sha256(data).hexdigest()]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252")


def docx_lines(data: bytes) -> list[str]:
    document = docx.Document(io.BytesIO(data))
    rows = [" | ".join(cell.text for cell in row.cells) for table in document.tables for row in table.rows]
    return [paragraph.text for paragraph in document.paragraphs] + rows


@pytest.mark.parametrize("path", sorted(GOOD))
def test_every_good_memo_gives_exactly_its_true_fields(path: str) -> None:
    assert extract_fields(text_of(DEFAULT_SAMPLES / path), FIELDS) == GOOD[path]


def test_the_samples_cover_what_practices_send() -> None:
    files = {p.relative_to(DEFAULT_SAMPLES).as_posix() for p in (DEFAULT_SAMPLES / "memos").rglob("*.*")}
    assert files == set(TRUTH)
    assert len(GOOD) >= 40
    assert sorted(fate for fate in TRUTH.values() if isinstance(fate, str)) == ["corrupt", "empty"]
    assert {Path(path).suffix for path in GOOD} == {".txt", ".pdf", ".docx", ".png"}
    assert all(tuple(sorted(fields)) == tuple(sorted(FIELDS)) for fields in GOOD.values())
    assert all(value.strip() for fields in GOOD.values() for value in fields.values())


def test_corrupt_document_is_unreadable_and_empty_one_is_empty() -> None:
    fates = {fate: DEFAULT_SAMPLES / path for path, fate in TRUTH.items() if isinstance(fate, str)}
    assert fates["empty"].read_bytes() == b""
    with pytest.raises(pypdfium2.PdfiumError):
        pypdfium2.PdfDocument(fates["corrupt"].read_bytes())


@pytest.mark.parametrize(
    ("alias", "field"),
    [
        ("name", "patient_name"),
        ("patient", "patient_name"),
        ("full_name", "patient_name"),
        ("phone", "phone_number"),
        ("telephone", "phone_number"),
        ("contact_number", "phone_number"),
        ("appointment_date", "scheduled_appointment_date"),
        ("date", "scheduled_appointment_date"),
        ("scheduled_date", "scheduled_appointment_date"),
        ("procedure", "dental_procedure_name"),
        ("treatment", "dental_procedure_name"),
        ("procedure_name", "dental_procedure_name"),
        ("doctor_name", "doctor"),
        ("physician", "doctor"),
        ("treating_doctor", "doctor"),
    ],
)
def test_an_alias_fills_its_field(alias: str, field: str) -> None:
    assert extract_fields(f"{alias}: the value", [field]) == {field: "the value"}


def test_the_more_telling_label_wins_wherever_it_stands() -> None:
    text = "Date: 2025-01-01\nAppointment date: 2025-02-02\nName: desk\nPatient name: Jo Roe"
    found = extract_fields(text, ["scheduled_appointment_date", "patient_name"])
    assert found == {"scheduled_appointment_date": "2025-02-02", "patient_name": "Jo Roe"}


def test_the_header_of_a_mail_is_not_the_memo() -> None:
    assert extract_fields("From: A\nDate: 2025-01-01\n\nNothing here.", FIELDS) == dict.fromkeys(FIELDS)


@pytest.mark.parametrize("placeholder", ["n/a", "N/A", "TBD", "unknown", "-", ""])
def test_a_placeholder_is_a_missing_value(placeholder: str) -> None:
    assert extract_fields(f"Doctor: {placeholder}", ["doctor"]) == {"doctor": None}


def test_a_field_that_the_rules_do_not_know_is_found_by_its_own_name() -> None:
    assert extract_fields("Invoice number: 17", ["invoice_number", "due"]) == {
        "invoice_number": "17",
        "due": None,
    }


def test_windows_line_ends_change_nothing() -> None:
    assert extract_fields("Age: 41 years\r\nDoctor:\r\n  Dr. Who\r\n", ["patient_age", "doctor"]) == {
        "patient_age": "41",
        "doctor": "Dr. Who",
    }
