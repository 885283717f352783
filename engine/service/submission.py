"""What the HTTP side hands to the writer, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

from engine.service.models import Row
from engine.service.tables import Table

__all__ = [
    "Delivery",
    "Epoch",
    "QueueFullError",
    "Receipt",
    "RejectedRecord",
    "Submission",
    "WarehouseDownError",
    "WriteFailedError",
]

Delivery = Literal["fresh", "replay", "foreign"]
"""`fresh`: ids never sent before; `replay`: they may have been; `foreign`: the client did not say."""


class Epoch(NamedTuple):
    """When a client sent a request, as it counts itself: of one scope, the higher number is the later.

    A `fresh` request that arrives after one with a higher number was overtaken on its way: its rows may have
    been delivered again meanwhile, so they are not fresh any more.
    """

    scope: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRecord:
    """A dead letter of the service. `index` is the record's place in its request, counted from 0.

    `record_id` is the record's own id where it has one; `original_record` the record as sent, as JSON text;
    `table` the table that a good record of this model goes to.
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
    source: Literal["api", "transform"]

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


@dataclass(slots=True, kw_only=True)
class Submission:
    """One request's work for the writer: committed as a whole or not at all. The rows are handed over."""

    model: str
    table: Table | None
    rows: list[Row]
    letters: list[RejectedRecord] = field(default_factory=list)
    delivery: Delivery = "foreign"
    key: str | None = None
    epoch: Epoch | None = None

    @property
    def scope(self) -> str | None:
        """Under which its rows can be counted later; None without a key or an epoch."""
        return self.epoch.scope if self.epoch is not None and self.key is not None else None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submission: rows written, and the dead letters' summaries."""

    written: int
    dead: tuple[dict[str, Any], ...] = ()
    duplicate: bool = False

    def repeated(self) -> Receipt:
        """The same answer for the same request once more."""
        return replace(self, duplicate=True)


class QueueFullError(Exception):
    """The writer cannot take more at present; try again in a moment."""


class WarehouseDownError(Exception):
    """The warehouse is stopping, or its storage fails; nothing of this request was stored."""


class WriteFailedError(Exception):
    """The warehouse refused this request's rows; nothing of it was stored."""
