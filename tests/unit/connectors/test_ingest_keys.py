"""Idempotency keys of different requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from connectors.ingest.params import IngestConnection, IngestParams
from connectors.ingest.sink import IngestSink
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import FatalError


async def key_of(node: str, *, attempt: int = 1) -> str:
    """The idempotency key of the first request of a node."""
    seen: list[str] = []

    async def post(path: str, content: bytes, headers: Mapping[str, str], **limits: Any) -> Any:
        seen.append(headers["Idempotency-Key"])
        raise FatalError("enough")

    sink = IngestSink(
        IngestParams.model_validate({"model": "BlobSource", "validation": "never"}),
        IngestConnection(url="http://127.0.0.1:9"),
    )
    sink.ctx = Context(run_id="r1", node=node, attempt=attempt, epoch=attempt)
    async with sink:
        assert sink._delivery is not None
        sink._delivery.client.post = post  # type: ignore[assignment, method-assign]
        with pytest.raises(FatalError, match="enough"):
            await sink.write(Batch([{"id": "a", "name": "x"}], KeyRange("k/", 0, 1)))
    return seen[0]


async def test_two_nodes_with_the_same_records_send_two_requests() -> None:
    assert await key_of("left") != await key_of("right")


async def test_a_later_attempt_sends_the_same_request() -> None:
    assert await key_of("left") == await key_of("left", attempt=2)
