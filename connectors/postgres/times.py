"""Dates and times of PostgreSQL as ISO 8601 text, and those beyond Python's calendar as they are."""

from __future__ import annotations

from datetime import datetime, time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

__all__ = ["read_times"]


def read_times(connection: Connection) -> None:
    """Have a connection read dates and times as text: `infinity` and a year BC are no error."""
    from psycopg.adapt import Buffer, Loader

    class Text(Loader):
        def load(self, data: Buffer) -> str:
            return str(data, "utf-8")

    class Moment(Text):
        kind: type[datetime | time] = datetime

        def load(self, data: Buffer) -> str:
            text = super().load(data)
            try:
                return self.kind.fromisoformat(text).isoformat()
            except ValueError:
                return text

    class Time(Moment):
        kind = time

    for kind in ("timestamp", "timestamptz"):
        connection.adapters.register_loader(kind, Moment)
    for kind in ("time", "timetz"):
        connection.adapters.register_loader(kind, Time)
    connection.adapters.register_loader("date", Text)
