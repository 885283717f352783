"""Tables of PostgreSQL: the sink and the source `postgres`."""

from __future__ import annotations

from connectors.postgres.database import PostgresConnection
from connectors.postgres.sink import PostgresSink, PostgresSinkParams
from connectors.postgres.source import PostgresSource, PostgresSourceParams

__all__ = [
    "PostgresConnection",
    "PostgresSink",
    "PostgresSinkParams",
    "PostgresSource",
    "PostgresSourceParams",
]
