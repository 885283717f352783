"""The `ingest` sink: records to `POST /ingest/<model>` over HTTP."""

from __future__ import annotations

from connectors.forwarding import forward_row
from connectors.ingest.params import Confirm, IngestConnection, IngestParams, LocalValidation
from connectors.ingest.sink import IngestSink

__all__ = ["Confirm", "IngestConnection", "IngestParams", "IngestSink", "LocalValidation", "forward_row"]
