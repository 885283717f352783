"""Any HTTP API: the source and the sink `http`."""

from __future__ import annotations

from connectors.http.connection import HttpConnection
from connectors.http.sink import HttpSink, HttpSinkParams
from connectors.http.source import HttpSource, HttpSourceParams

__all__ = ["HttpConnection", "HttpSink", "HttpSinkParams", "HttpSource", "HttpSourceParams"]
