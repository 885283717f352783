"""Tables of a DuckDB file: the sink and the source `duckdb`."""

from __future__ import annotations

from connectors.duckdb.sink import DuckdbSink, DuckdbSinkParams
from connectors.duckdb.source import DuckdbSource, DuckdbSourceParams

__all__ = ["DuckdbSink", "DuckdbSinkParams", "DuckdbSource", "DuckdbSourceParams"]
