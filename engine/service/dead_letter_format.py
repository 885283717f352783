"""Making dead letters: the same record gives the same dead letter however often it is delivered."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Literal

import orjson

from engine.service.models import IngestModel
from engine.service.submission import RejectedRecord

__all__ = ["letter_of"]

_NAMESPACE = uuid.UUID("6f0d1a0e-2f4b-5c7e-9a53-0d6b1c8e4f21")
_MAX_MESSAGE = 2_000


def letter_of(
    model: IngestModel,
    index: int,
    original: object,
    *,
    error_type: str,
    error_message: str,
    source: Literal["api", "transform"],
    failed_at: datetime,
) -> RejectedRecord:
    """The dead letter of one record as it was sent.

    Its id is a UUID (version 5) of the model and the record's id, or its content where it has none. What is
    not an object is kept as `{"value": ...}`.
    """
    record = original if isinstance(original, dict) else {"value": original}
    content = orjson.dumps(record)
    identifier = record.get("id") if isinstance(original, dict) else None
    # Numbers as ids are kept as text, so that such a dead letter can be found again.
    record_id = str(identifier) if isinstance(identifier, str | int) and identifier != "" else None
    identity = f"id:{record_id}" if record_id is not None else f"sha256:{hashlib.sha256(content).hexdigest()}"
    return RejectedRecord(
        dead_letter_id=str(uuid.uuid5(_NAMESPACE, f"{model.name}\n{identity}")),
        index=index,
        model=model.name,
        table=model.table,
        record_id=record_id,
        original_record=content.decode(),
        error_type=error_type,
        error_message=error_message[:_MAX_MESSAGE],
        failed_at=failed_at,
        source=source,
    )
