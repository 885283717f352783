"""Values that the HTTP side passes to the writer, and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from engine.service.models import UNKNOWN_ORIGIN, Origin, Row
from engine.service.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

Delivery = Literal["fresh", "replay", "foreign"]
"""`fresh`: ids never sent before; `replay`: they may have been; `foreign`: not declared by the client."""

LetterSource = Literal["api", "transform", "table"]
"""What rejected a record."""

RequestKey: TypeAlias = tuple[str, str]
"""A model and an idempotency key."""


class Epoch(NamedTuple):
    """The order of a client's requests in its own numbering: within a scope, a higher number is later.

    A request that arrives after one with a higher number was overtaken: its rows may have been delivered
    again meanwhile. They are no longer fresh, and later deliveries are kept.
    """

    scope: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRecord:
    """A dead letter of the service. `index` is the record's position in its request, counted from 0.

    `record_id` is the record's own id, if any; `original_record` the record as sent, as JSON text; `table`
    the table for valid records of this model; `origin` where the record came from.
    """

    dead_letter_id: str
    index: int
    model: str
    table: str | None
    record_id: str | None
    original_record: str
    error_type: str
    error_message: str
    failed_at: datetime
    source: LetterSource
    origin: Origin = UNKNOWN_ORIGIN

    def summary(self) -> dict[str, Any]:
        """Return this dead letter for an answer with per-record results."""
        return {
            "index": self.index,
            "id": self.record_id,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "source": self.source,
            "dead_letter_id": self.dead_letter_id,
        }


class AuditEntry(NamedTuple):
    """A user's action on a dead letter: `subject` is its id, `detail` never contains a record's value."""

    actor: str
    action: str
    subject: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Submission:
    """One request's work for the writer: committed as a whole or not at all. The writer owns the rows.

    `columns` are the rows as an Arrow table, in the order of the table's columns, instead of `rows`. `refuse`
    creates the dead letter of a row, by index, that does not fit its table; without it one such row fails the
    submission. `discard` are ids of dead letters to discard, with a reason; `recovered` are ids of dead
    letters whose records were delivered another way. `unless_newer`: rows of a later commit sequence are
    kept, unless they have the same scope. `audit` is committed with the rest.
    """

    model: str = ""
    table: Table | None = None
    rows: list[Row] = field(default_factory=list)
    columns: pa.Table | None = None
    letters: list[RejectedRecord] = field(default_factory=list)
    delivery: Delivery = "foreign"
    key: str | None = None
    body_hash: str | None = None
    epoch: Epoch | None = None
    unless_newer: int | None = None
    refuse: Callable[[int, str], RejectedRecord] | None = None
    discard: tuple[Sequence[str], str] | None = None
    recovered: Sequence[str] = ()
    audit: Sequence[AuditEntry] = ()

    @property
    def row_count(self) -> int:
        """Number of rows, in either form."""
        return len(self.rows) if self.columns is None else int(self.columns.num_rows)

    @property
    def request_key(self) -> RequestKey | None:
        """The identity of a repeatable request: its model and idempotency key; None without a key."""
        return (self.model, self.key) if self.key is not None else None

    def is_repeat_of(self, body_hash: str | None) -> bool:
        """Return whether a request of the same key with this hash is the same, or may be without a hash."""
        return body_hash is None or self.body_hash is None or body_hash == self.body_hash

    @property
    def scope(self) -> str | None:
        """The scope for counting its rows later; None without a key or an epoch."""
        return self.epoch.scope if self.epoch is not None and self.key is not None else None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The outcome of a submission: rows written, and the dead letters' summaries."""

    written: int
    dead: tuple[dict[str, Any], ...] = ()
    duplicate: bool = False

    def repeated(self) -> Receipt:
        """Return the earlier answer for a repeated request."""
        return replace(self, duplicate=True)


class KeyReusedError(Exception):
    """The idempotency key was used before with another body; nothing of this request was stored."""

    def __init__(self) -> None:
        super().__init__("The Idempotency-Key was used with another body: send this request with a new key")


class NotStoredError(Exception):
    """Nothing of a request was stored."""


class QueueFullError(NotStoredError):
    """The writer's queue is full; try again in a moment."""


class WarehouseDownError(NotStoredError):
    """The warehouse is stopping, or its storage fails."""


class WriteFailedError(NotStoredError):
    """The warehouse rejected this request's rows."""
