"""Files of JSON lines on this machine: the source and the sink `jsonl`.

The source `files`, which reads whole files, is in `connectors.files.documents`: it needs more than these do.
"""

from __future__ import annotations

from connectors.files.sink import JsonlSink, JsonlSinkParams
from connectors.files.source import JsonlSource, JsonlSourceParams

__all__ = ["JsonlSink", "JsonlSinkParams", "JsonlSource", "JsonlSourceParams"]
