"""The source and the sink `jsonl`: JSON-lines files on this machine."""

from __future__ import annotations

from connectors.files.sink import JsonlSink, JsonlSinkParams
from connectors.files.source import JsonlSource, JsonlSourceParams

__all__ = ["JsonlSink", "JsonlSinkParams", "JsonlSource", "JsonlSourceParams"]
