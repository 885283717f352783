"""Failures that end a run early, and failures that do not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from engine.contract.batch import Batch
from engine.contract.component import Receipt
from engine.errors import FatalError
from engine.testing import MemorySource
from tests.servers.temporal import DevServer
from tests.temporal.workshop import PATIENCE, Held, made_anew, numbered, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series


class Refusing(Held):
    """Says that it will never take one record; holds the others."""

    async def write(self, batch: Batch) -> Receipt:
        if 75 in batch.records:
            raise FatalError("the key was revoked", kind="auth")
        return await super().write(batch)


async def test_permanent_failure_ends_the_run_after_delivery(
    server: DevServer,
) -> None:
    records: list[Any] = []
    plan = made_anew(MemorySource(numbered(8)), lambda: Refusing(records, anyio.Event()))
    async with workshop(server, plan) as shop, shop.worker(slots=8):
        handle = await shop.start(shards=2)
        with anyio.fail_after(PATIENCE), pytest.raises(WorkflowFailureError) as raised:
            await handle.result()
        record = await shop.engine.store.get_run(handle.id.rpartition("/")[2])

    assert isinstance(raised.value.cause, ApplicationError)
    assert (raised.value.cause.type, raised.value.cause.non_retryable) == ("AuthError", True)
    assert "the key was revoked" in str(raised.value.cause)
    assert record.status == "failed"
    assert sorted(records) == list(range(70))
