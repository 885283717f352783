"""Dead letters as rows of `UnstructuredDataSource`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from uuid import UUID, uuid5

from engine.contract.clock import timestamp
from engine.contract.dead_letter import DeadLetter
from engine.service.models import Origin

_NAMESPACE: Final = UUID("6f1d2c52-6d0f-5d0e-9d2b-0c9a8f6b3a11")


def forward_row(letter: DeadLetter) -> dict[str, str]:
    """Return the row that forwards a dead letter to the warehouse.

    The id is `dlq_<uuid5 of pipeline, node and key>`, so the same failure in a later run replaces the row.
    `source_file_path` begins with `[DLQ]`, which the service's transform recognises, followed by the URI of
    the record's document or the record's key. `extracted_data` is JSON text with `error` and `record`.
    """
    error = {
        "type": letter.error_type,
        "message": letter.error_message,
        "run_id": letter.run_id,
        "pipeline": letter.pipeline,
        "node": letter.node,
        "stage": letter.stage,
        "key": letter.key,
        "attempts": letter.attempts,
    }
    body: dict[str, object] = {"error": error, "record": letter.record}
    if letter.reference:
        body["reference"] = letter.reference
    identity = "\0".join((letter.pipeline, letter.node, letter.key))
    return {
        "id": f"dlq_{uuid5(_NAMESPACE, identity)}",
        "source_file_path": f"[DLQ]{_origin(letter)}",
        # not with orjson, which does not support integers beyond 64 bits
        "extracted_data": json.dumps(body, default=str, ensure_ascii=False, separators=(",", ":")),
        "processed_at": letter.last_failed_at or letter.first_failed_at or timestamp(datetime.now(UTC)),
        "processing_instructions": f"Failed: {letter.error_type}: {letter.error_message}",
    }


def origin_of(record: Mapping[str, object]) -> Origin | None:
    """Return the record that a row of `forward_row` forwards; None for any other row."""
    body = record.get("extracted_data")
    if not str(record.get("id")).startswith("dlq_") or not isinstance(body, str):
        return None
    try:
        error = json.loads(body)["error"]
        run = error.get("run_id")  # rows of older versions have none
        return Origin(
            str(error["pipeline"]), None if run is None else str(run), str(error["node"]), str(error["key"])
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _origin(letter: DeadLetter) -> str:
    record = letter.record
    fields = record if isinstance(record, Mapping) else {}
    for candidate in (fields.get("source_file_path"), fields.get("file_path"), letter.reference):
        if isinstance(candidate, str) and "://" in candidate:
            return candidate
    return letter.key
