from __future__ import annotations

from datetime import UTC, datetime

from connectors.models import UnstructuredData
from connectors.staging import StageDocuments, StageParams, staged_id
from engine.contract.batch import Batch
from engine.contract.clock import SystemClock
from engine.errors import RecordError


class Noon(SystemClock):
    def now(self) -> datetime:
        return datetime(2026, 1, 2, 12, tzinfo=UTC)


def stage(*records: dict[str, object], instructions: str | None = None) -> Batch:
    transform = StageDocuments(StageParams(processing_instructions=instructions))
    transform.ctx.clock = Noon()
    return transform.apply(Batch(list(records), [f"bucket/{n}@etag" for n in range(len(records))]))


def test_a_file_becomes_a_row_of_the_staging_table() -> None:
    staged = stage(
        {"file_path": "minio://bucket/a b.txt", "content": "Dear …", "is_binary": False},
        instructions="German",
    )
    assert staged.records == [
        {
            "id": "unstr_7c2ce42c-4147-5a71-8c96-07148fee9c5d",
            "source_file_path": "minio://bucket/a b.txt",
            "extracted_data": "Dear …",
            "processed_at": "2026-01-02T12:00:00.000Z",
            "processing_instructions": "German",
            "transform_timestamp": "2026-01-02T12:00:00.000Z",
        }
    ]
    UnstructuredData.model_validate(staged.records[0])
    assert staged.keys.to_list() == ["bucket/0@etag"]


def test_the_id_depends_on_the_record_key_alone() -> None:
    first = stage({"file_path": "s3://x/y", "content": "a"})
    again = stage({"file_path": "minio://x/y", "content": "b"}, instructions="x")
    assert first.records[0]["id"] == again.records[0]["id"] == staged_id("bucket/0@etag")
    assert staged_id("bucket/0@other") != staged_id("bucket/0@etag")


def test_a_record_that_is_no_file_fails_alone() -> None:
    staged = stage({"file_path": "s3://x/y"}, {"file_path": "s3://x/z", "content": ""})
    ((index, error),) = staged.failures
    assert index == 0
    assert isinstance(error, RecordError)
    assert error.kind == "NotAFile"
    assert [row["source_file_path"] for row in staged.records] == ["s3://x/z"]
