from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import BaseModel, ValidationError

from connectors import models
from connectors.models import (
    INGEST_MODELS,
    Blob,
    BlobSource,
    EventSource,
    LogSource,
    Medical,
    UnstructuredData,
    UnstructuredDataSource,
)
from engine.service.validation import BodyValidator

BLOB = {
    "id": "b-1",
    "bucket_name": "labs-inbox",
    "file_path": "/a/b/",
    "file_name": "model.onnx",
    "file_size": 4096,
    "permissions": ["READ"],
    "content_type": None,
    "ingested_at": "2025-03-01T08:00:00+00:00",
}

FIELDS = {
    "BlobSource": "id bucket_name file_path file_name file_size permissions content_type? ingested_at",
    "LogSource": "id timestamp level message source? trace_id?",
    "EventSource": "id event_name timestamp distinct_id session_id? project_id properties? "
    "ip_address? user_agent?",
    "UnstructuredDataSource": "id source_file_path extracted_data? processed_at processing_instructions?",
    "Medical": "id patient_name patient_age phone_number scheduled_appointment_date dental_procedure_name "
    "doctor source_file_path transform_timestamp",
}
FIELDS |= {
    name.removesuffix("Source"): f"{FIELDS[name]} transform_timestamp"
    for name in ("BlobSource", "LogSource", "EventSource", "UnstructuredDataSource")
}


@pytest.mark.parametrize(("name", "expected"), FIELDS.items())
def test_a_model_has_exactly_the_fields_of_the_contract(name: str, expected: str) -> None:
    model: type[BaseModel] = getattr(models, name)
    found = [f"{field}{'' if info.is_required() else '?'}" for field, info in model.model_fields.items()]
    assert found == expected.split()


def test_unknown_fields_are_dropped() -> None:
    assert BlobSource.model_validate({**BLOB, "colour": "red"}).model_dump(mode="json") == BLOB


def test_a_field_that_may_be_null_may_be_left_out() -> None:
    log = LogSource.model_validate({"id": "1", "timestamp": "t", "level": "WARN", "message": "m"})
    assert (log.source, log.trace_id) == (None, None)


@pytest.mark.parametrize("change", [{"file_name": None}, {"file_name": 7}, {"permissions": "READ"}])
def test_a_value_of_another_type_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        BlobSource.model_validate({**BLOB, **change})
    assert [error["loc"] for error in caught.value.errors()] == [tuple(change)]


@pytest.mark.parametrize("level", ["info", "FATAL", ""])
def test_a_log_level_is_one_of_four(level: str) -> None:
    with pytest.raises(ValidationError, match="'INFO', 'DEBUG', 'WARN' or 'ERROR'"):
        LogSource.model_validate({"id": "1", "timestamp": "t", "level": level, "message": "m"})


def test_ages_are_text_so_that_the_table_shows_them_as_written() -> None:
    row = dict.fromkeys(Medical.model_fields, "x")
    assert Medical.model_validate(row).patient_age == "x"
    with pytest.raises(ValidationError, match="patient_age"):
        Medical.model_validate({**row, "patient_age": 34})


def test_the_exact_uri_of_a_document_is_kept() -> None:
    uri = "s3://unstructured-data/memos/naïve file #1 (50%).txt"
    staged = UnstructuredData(id="1", source_file_path=uri, processed_at="t", transform_timestamp="t")
    assert staged.model_dump(mode="json")["source_file_path"] == uri


def test_every_source_model_leads_to_the_table_of_its_curated_model() -> None:
    served = {entry.name: entry for entry in INGEST_MODELS}
    assert set(served) == set(FIELDS)
    for source in (BlobSource, LogSource, EventSource, UnstructuredDataSource):
        entry = served[source.__name__]
        curated = served[source.__name__.removesuffix("Source")]
        assert (entry.model, entry.table, entry.row) == (source, curated.table, curated.model)
        assert curated.transform is None


def test_what_a_transform_makes_of_a_valid_record_is_a_valid_row() -> None:
    example: dict[str, object] = {"permissions": ["READ"], "file_size": 1, "level": "INFO"}
    for entry in INGEST_MODELS:
        if entry.transform is None:
            continue
        record = {name: example.get(name, "text") for name in entry.model.model_fields}
        (row,) = entry.transform([record])
        assert isinstance(row, dict)
        assert entry.row_model.model_validate(row).model_dump(mode="json") == row


def test_the_service_takes_digit_strings_as_integers_and_nothing_else() -> None:
    validator = BodyValidator(Blob)
    row = {**BLOB, "transform_timestamp": "t"}
    assert validator.read(json.dumps({**row, "file_size": "12"}).encode()).records[0]["file_size"] == 12
    assert validator.read(json.dumps({**row, "file_size": True}).encode()).failures


@pytest.mark.slow
def test_importing_the_models_loads_nothing_heavy() -> None:
    code = (
        "import sys, connectors.models, connectors.simulated, connectors.transforms;"
        "print(*{'faker', 'orjson', 'duckdb', 'starlette', 'httpx'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
