"""The service's own dead letters, page by page, and the actions on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from engine.service.context import ServiceContext
from engine.service.ingest import store_again
from engine.service.models import Origin
from engine.service.operations import DeadRecord, LetterWhere
from engine.service.storage import Reader
from engine.service.submission import AuditEntry

_COLUMNS = (
    "dead_letter_id, model, record_id, original_record, error_type, error_message, failed_at, source, "
    "status, reason, commit_sequence, batch_index, pipeline, run, node, key"
)
_ORDER = "(commit_sequence, batch_index, dead_letter_id)"


@dataclass(frozen=True, slots=True)
class ServiceLetter:
    """A dead letter of the service. `place` is where the next page begins."""

    id: str
    model: str
    record_id: str | None
    record: str
    error_type: str
    error_message: str
    failed_at: datetime
    source: str
    status: str
    reason: str | None
    sequence: int
    index: int
    pipeline: str | None
    run: str | None
    node: str | None
    key: str | None

    @property
    def dead_record(self) -> DeadRecord:
        """Return the identity of its record."""
        return DeadRecord(Origin(self.pipeline, self.run, self.node, self.key), self.record_id or "")

    @property
    def place(self) -> str:
        """Return the place after which the next page begins."""
        return f"{self.sequence}.{self.index}.{self.id}"


def list_letters(reader: Reader, where: LetterWhere) -> list[ServiceLetter]:
    """Return dead letters, newest first; `where.pipeline` is the model, `where.before` a place. Blocks."""
    conditions, values = ["true"], list[Any]()
    for column, value in (
        ("lower(model)", where.pipeline.lower()),
        ("error_type", where.cause),
        ("status", where.status),
    ):
        if value:
            conditions.append(f"{column} = ?")
            values.append(value)
    place = where.before.split(".", 2)
    if len(place) == 3 and all(part.isascii() and part.isdigit() and len(part) < 19 for part in place[:2]):
        conditions.append(f"{_ORDER} < (?, ?, ?)")
        values += [int(place[0]), int(place[1]), place[2]]
    rows = reader.execute(
        f"SELECT {_COLUMNS} FROM _odw_dead_letters WHERE {' AND '.join(conditions)} "  # noqa: S608 -- constants
        "ORDER BY commit_sequence DESC, batch_index DESC, dead_letter_id DESC LIMIT ?",
        [*values, where.limit],
    ).fetchall()
    return [ServiceLetter(*row) for row in rows]


def letter_of_id(reader: Reader, letter_id: str) -> ServiceLetter | None:
    """Return the dead letter with this id. Blocks."""
    row = reader.execute(
        f"SELECT {_COLUMNS} FROM _odw_dead_letters WHERE dead_letter_id = ?",  # noqa: S608 -- constant
        [letter_id],
    ).fetchone()
    return ServiceLetter(*row) if row else None


def ids_of(reader: Reader, records: Sequence[DeadRecord]) -> list[str]:
    """Return the ids of the open dead letters of these records. Blocks."""
    found: list[str] = []
    for (_, run, node, key), record_id in records:
        rows = reader.execute(
            "SELECT dead_letter_id FROM _odw_dead_letters WHERE status = 'open' AND run = ? AND node = ? "
            "AND coalesce(key = ?, record_id = nullif(?, ''))",
            [run, node, key, record_id],
        ).fetchall()
        found += (letter_id for (letter_id,) in rows)
    return found


def records_of(reader: Reader, ids: Sequence[str]) -> list[DeadRecord]:
    """Return the identities of these dead letters' records. Blocks."""
    found = reader.execute(
        "SELECT pipeline, run, node, key, coalesce(record_id, '') FROM _odw_dead_letters "
        "WHERE dead_letter_id IN (SELECT unnest(?::VARCHAR[]))",
        [ids],
    ).fetchall()
    return [DeadRecord(Origin(*origin), record_id) for *origin, record_id in found]


def causes_of(reader: Reader) -> list[tuple[str, str, int]]:
    """Return (model, error type, number) of open ones, most frequent first. Blocks."""
    return reader.execute(
        "SELECT model, error_type, count(*) AS n FROM _odw_dead_letters WHERE status = 'open' "
        "GROUP BY ALL ORDER BY n DESC, model, error_type LIMIT 50"
    ).fetchall()


def audit_of(reader: Reader, subject: str = "", limit: int = 50) -> list[tuple[datetime, str, str, str, str]]:
    """Return (time, actor, action, subject, detail), newest first. Blocks."""
    return reader.execute(
        "SELECT happened_at, actor, action, subject, detail FROM _odw_audit WHERE ? = '' OR subject = ? "
        "ORDER BY happened_at DESC LIMIT ?",
        [subject, subject, limit],
    ).fetchall()


async def replay_letter(context: ServiceContext, letter: ServiceLetter, record: str, actor: str) -> list[str]:
    """Store the record of a dead letter; return why it was rejected again, if it was."""
    endpoint = context.endpoints.get(letter.model.lower())
    if endpoint is None:
        return [f"The model {letter.model} is no longer served"]
    detail = "as it was" if _same(record, letter.record) else "edited"
    audit = [AuditEntry(actor, "replayed", letter.id, detail)]
    # for an open letter, any newer row was delivered after the page was rendered
    unless_newer = letter.sequence if letter.status == "open" else None
    return await store_again(context, endpoint, record.encode(), audit, unless_newer)


def _same(one: str, other: str) -> bool:
    try:
        return bool(orjson.loads(one) == orjson.loads(other))
    except orjson.JSONDecodeError:
        return one == other


def schema_of(context: ServiceContext, model: str) -> list[tuple[str, str, bool, str]]:
    """Return (field, type, whether it is required, description) of a model; empty for an unknown model."""
    endpoint = context.endpoints.get(model.lower())
    if endpoint is None:
        return []
    fields = endpoint.model.model.model_fields
    return [
        (field.alias or name, _type_text(field.annotation), field.is_required(), field.description or "")
        for name, field in fields.items()
    ]


def _type_text(annotation: object) -> str:
    text = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    for noise in ("typing.", "datetime.", "uuid.", "decimal.", "ipaddress."):
        text = text.replace(noise, "")
    return text.replace("NoneType", "None").replace(" | None", ", or null")
