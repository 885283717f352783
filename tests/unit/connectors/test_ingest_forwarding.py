"""Dead letters as rows of UnstructuredDataSource."""

from __future__ import annotations

import json
from dataclasses import replace
from uuid import UUID

import pytest

from connectors.forwarding import origin_of
from connectors.ingest import forward_row
from connectors.models import UnstructuredDataSource
from engine.contract.dead_letter import DeadLetter
from engine.service.models import Origin

LETTER = DeadLetter(
    run_id="run-1",
    pipeline="unstructured_data",
    node="extract",
    key="bucket/memos/a.pdf@etag",
    stage="",
    error_type="CorruptDocument",
    error_message="a.pdf cannot be opened",
    record={"id": "unstr_1", "source_file_path": "s3://bucket/memos/a.pdf"},
    attempts=2,
    first_failed_at="2026-01-01T00:00:00Z",
    last_failed_at="2026-01-01T00:01:00Z",
)


def test_a_row_tells_where_why_and_what() -> None:
    row = forward_row(LETTER)
    UnstructuredDataSource.model_validate(row, strict=True)
    extracted = json.loads(row["extracted_data"])
    assert row["source_file_path"] == "[DLQ]s3://bucket/memos/a.pdf"
    assert row["processing_instructions"] == "Failed: CorruptDocument: a.pdf cannot be opened"
    assert row["processed_at"] == "2026-01-01T00:01:00Z"
    assert extracted["record"] == LETTER.record
    assert extracted["error"]["type"] == "CorruptDocument"
    assert extracted["error"]["attempts"] == 2


def test_forwarded_id_depends_on_pipeline_node_and_key() -> None:
    row = forward_row(LETTER)
    kind, _, identity = row["id"].partition("_")
    assert kind == "dlq"
    assert UUID(identity).version == 5
    assert forward_row(replace(LETTER, run_id="run-2", attempts=9))["id"] == row["id"]
    others = [replace(LETTER, key="k"), replace(LETTER, node="n"), replace(LETTER, pipeline="p")]
    assert len({forward_row(other)["id"] for other in others} | {row["id"]}) == 4


@pytest.mark.parametrize("record", [None, {"file_path": "/a/b/"}, "text"])
def test_without_a_uri_the_key_says_where_it_came_from(record: object) -> None:
    assert forward_row(replace(LETTER, record=record))["source_file_path"] == f"[DLQ]{LETTER.key}"


def test_a_record_kept_by_reference_is_named_by_it() -> None:
    row = forward_row(replace(LETTER, record=None, reference="s3://bucket/big.bin"))
    assert row["source_file_path"] == "[DLQ]s3://bucket/big.bin"
    assert json.loads(row["extracted_data"])["reference"] == "s3://bucket/big.bin"


def test_a_forwarded_row_says_which_record_it_is_about() -> None:
    origin = Origin("unstructured_data", "run-1", "extract", "bucket/memos/a.pdf@etag")
    assert origin_of(forward_row(LETTER)) == origin
    older = json.loads(forward_row(LETTER)["extracted_data"])
    del older["error"]["run_id"]
    row = {**forward_row(LETTER), "extracted_data": json.dumps(older)}
    assert origin_of(row) == origin._replace(run=None)


@pytest.mark.parametrize("body", [None, 5, "", "[1]", "{}", '{"error":{}}', '{"error":"no"}', "[" * 100_000])
def test_other_records_say_nothing_of_an_origin(body: object) -> None:
    assert origin_of({"id": "dlq_1", "extracted_data": body}) is None
    assert origin_of({"id": "1", "extracted_data": forward_row(LETTER)["extracted_data"]}) is None
