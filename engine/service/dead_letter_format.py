"""Create dead letters whose ids are the same for the same record."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime
from typing import Any

import orjson

from engine.service.models import UNKNOWN_ORIGIN, IngestModel, Origin
from engine.service.splitting import kept_text, parse
from engine.service.submission import LetterSource, RejectedRecord

OF_IDS = (
    "(record_id IN (SELECT unnest(?::VARCHAR[])) OR dead_letter_id IN (SELECT lower(unnest(?::VARCHAR[]))) "
    "OR (table_name, record_key) IN (SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[])))"
)
"""Filter of dead letters by their own ids, and by those of their records in any spelling."""

_NAMESPACE = uuid.UUID("6f0d1a0e-2f4b-5c7e-9a53-0d6b1c8e4f21")
_MAX_MESSAGE = 2_000


def letter_of(
    model: IngestModel,
    index: int,
    original: bytes,
    *,
    error_type: str,
    error_message: str,
    source: LetterSource,
    failed_at: datetime,
    origin: Origin = UNKNOWN_ORIGIN,
) -> RejectedRecord:
    """Create the dead letter of a record, given as the JSON text that was sent.

    Its id is a UUID (version 5) of the model and the record's id, or the content of a record without one. A
    record that is not an object is stored as `{"value": ...}`, one that some JSON parsers reject as its text
    in `value`. `origin` is that of the request; the record's own origin takes precedence.
    """
    record = _record_of(original)
    record_id, content = _encodable(record_id_of(record)) or None, _content_of(original)
    identity = f"id:{record_id}" if record_id is not None else f"sha256:{hashlib.sha256(content).hexdigest()}"
    return RejectedRecord(
        dead_letter_id=str(uuid.uuid5(_NAMESPACE, f"{model.name}\n{identity}")),
        index=index,
        model=model.name,
        table=model.table,
        record_id=record_id,
        original_record=kept_text(original, record_id),
        error_type=error_type,
        error_message=_encodable(error_message[:_MAX_MESSAGE]),
        failed_at=failed_at,
        source=source,
        origin=(model.origin(record) if model.origin is not None and record is not None else None) or origin,
    )


def _record_of(original: bytes) -> dict[str, Any] | None:
    """Return the record; None if it is not an object or cannot be parsed."""
    try:
        record = parse(original)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def record_id_of(record: object) -> str:
    """Return the record's id, "" if it has none; numbers as text, so that its dead letter can be found."""
    found = record.get("id") if isinstance(record, dict) else None
    return str(found) if isinstance(found, str | int | float) else ""


def _content_of(original: bytes) -> bytes:
    """Return the substitute for a missing id: the record's JSON without blanks."""
    try:
        record = orjson.loads(original)
        return orjson.dumps(record if isinstance(record, dict) else {"value": record})
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return original


def _encodable(text: str) -> str:
    """Return the text with lone surrogates escaped, since nothing can store them."""
    return text.encode("utf-8", "backslashreplace").decode()
