"""Files of JSON lines on this machine: the source and the sink `jsonl`.

The source `files`, which reads whole files, is in `connectors.files.documents`: it needs more than these do.
"""

from __future__ import annotations

from connectors.files.jsonl_sink import JsonlSink, JsonlSinkParams
from connectors.files.jsonl_source import JsonlSource, JsonlSourceParams

__all__ = ["JsonlSink", "JsonlSinkParams", "JsonlSource", "JsonlSourceParams"]
