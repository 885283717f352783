"""Tables and queries of any database with an ADBC driver: the source `sql`."""

from __future__ import annotations

from connectors.sql.database import SqlConnection
from connectors.sql.source import SqlSource, SqlSourceParams

__all__ = ["SqlConnection", "SqlSource", "SqlSourceParams"]
