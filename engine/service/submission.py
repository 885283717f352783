"""What the HTTP side hands to the writer, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from engine.service.models import UNKNOWN_ORIGIN, Origin, Row
from engine.service.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = [
    "AuditEntry",
    "Delivery",
    "Epoch",
    "KeyReusedError",
    "QueueFullError",
    "Receipt",
    "RejectedRecord",
    "RequestKey",
    "Submission",
    "WarehouseDownError",
    "WriteFailedError",
]

Delivery = Literal["fresh", "replay", "foreign"]
"""`fresh`: ids never sent before; `replay`: they may have been; `foreign`: the client did not say."""


RequestKey: TypeAlias = tuple[str, str]
"""A model and an idempotency key."""


class Epoch(NamedTuple):
    """When a client sent a request, as it counts itself: of one scope, the higher number is the later.

    A request that arrives after one with a higher number was overtaken on its way: its rows may have been
    delivered again meanwhile. They are not fresh any more, and what was delivered since stays.
    """

    scope: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRecord:
    """A dead letter of the service. `index` is the record's place in its request, counted from 0.

    `record_id` is the record's own id where it has one; `original_record` the record as sent, as JSON text;
    `table` the table that a good record of this model goes to; `origin` where the record came from.
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
    source: Literal["api", "transform", "table"]
    origin: Origin = UNKNOWN_ORIGIN

    def summary(self) -> dict[str, Any]:
        """This dead letter in an answer with per-record results."""
        return {
            "index": self.index,
            "id": self.record_id,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "source": self.source,
            "dead_letter_id": self.dead_letter_id,
        }


class AuditEntry(NamedTuple):
    """What somebody has done to a dead letter: `subject` is its id, `detail` never holds a record's value."""

    actor: str
    action: str
    subject: str
    detail: str


@dataclass(slots=True, kw_only=True)
class Submission:
    """One request's work for the writer: committed as a whole or not at all. The rows are handed over.

    `columns` are the rows as an Arrow table, in the order of the table's columns, in place of `rows`.
    `refuse` makes the dead letter of a row, by its place, that turns out not to fit its table; without it one
    such row fails the submission. `discard` are ids of dead letters to put aside, and why; `recovered` are
    ids of those whose records were delivered another way. `unless_newer`: rows of a later commit sequence
    than this stay, unless they are of the same scope.
    `audit` is committed with the rest.
    """

    model: str
    table: Table | None
    rows: list[Row]
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
        """Number of rows, in whichever form."""
        return len(self.rows) if self.columns is None else int(self.columns.num_rows)

    @property
    def request_key(self) -> RequestKey | None:
        """What tells a repeated request: the idempotency key, which counts for one model; None without it."""
        return (self.model, self.key) if self.key is not None else None

    def is_repeat_of(self, body_hash: str | None) -> bool:
        """Whether a request of the same key with this hash was the same; one without a hash may have been."""
        return body_hash is None or self.body_hash is None or body_hash == self.body_hash

    @property
    def scope(self) -> str | None:
        """Under which its rows can be counted later; None without a key or an epoch."""
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
    """The idempotency key has come before with another body; nothing of this request was stored."""

    def __init__(self) -> None:
        super().__init__(
            "The Idempotency-Key was used with another body: send this request under a key of its own"
        )


class QueueFullError(Exception):
    """The writer cannot take more at present; try again in a moment."""


class WarehouseDownError(Exception):
    """The warehouse is stopping, or its storage fails; nothing of this request was stored."""


class WriteFailedError(Exception):
    """The warehouse refused this request's rows; nothing of it was stored."""
