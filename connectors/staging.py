"""Convert files to rows of the staging table."""

from __future__ import annotations

from uuid import UUID, uuid5

from pydantic import Field

from engine.contract.batch import Batch
from engine.contract.clock import timestamp
from engine.contract.component import Kind, Params, Transform, component
from engine.errors import RecordError

STAGED_NAMESPACE = UUID("5d0ff7b4-6a3e-5a0c-9a6d-5d2b3f0c1e77")
"""The name space of staged ids (RFC 9562, section 5.5). Never change it: ids would no longer match earlier
ones."""


class StageParams(Params):
    """Parameters of `stage_documents`."""

    processing_instructions: str | None = Field(
        default=None, description="Stored with each row, for the next step of processing"
    )


def staged_id(key: str) -> str:
    """Return the id of a staged document, which depends only on its record key."""
    return f"unstr_{uuid5(STAGED_NAMESPACE, key)}"


@component(Kind.TRANSFORM, "stage_documents", params=StageParams)
class StageDocuments(Transform[StageParams]):
    """Converts files to rows of the table `UnstructuredData`.

    Takes records with the fields `file_path` and `content` (as from the source `s3`) and returns rows with
    `id`, `source_file_path`, `extracted_data`, `processed_at`, `processing_instructions` and
    `transform_timestamp`. The id is derived from the record's key, so staging a file again replaces its row.
    Keys do not change.
    """

    def apply(self, batch: Batch) -> Batch:
        """Create one row per file; a record without a path or content becomes a dead letter."""
        now = timestamp(self.ctx.clock.now())
        instructions = self.params.processing_instructions
        rows: list[dict[str, str | None] | RecordError] = []
        for record, key in zip(batch.records, batch.keys.to_list(), strict=True):
            path, content = record.get("file_path"), record.get("content")
            if not isinstance(path, str) or not isinstance(content, str):
                rows.append(RecordError("a staged document needs `file_path` and `content`", kind="NotAFile"))
                continue
            rows.append(
                {
                    "id": staged_id(key),
                    "source_file_path": path,
                    "extracted_data": content,
                    "processed_at": now,
                    "processing_instructions": instructions,
                    "transform_timestamp": now,
                }
            )
        return batch.outcomes(rows)
