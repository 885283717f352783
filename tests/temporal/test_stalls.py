"""Stalled work is stopped and retried; a blocked event loop is reported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import anyio
import pytest
from temporalio import activity

from engine.contract.batch import Batch
from engine.contract.component import Receipt
from engine.execution.engine import Engine
from engine.execution.events import RunEvent
from engine.temporal.heartbeat import Progress
from engine.temporal.supervision import Patience
from engine.testing import MemorySink, MemorySource
from tests.servers.temporal import DevServer
from tests.temporal.histories import family, kind
from tests.temporal.workshop import PATIENCE, made_anew, numbered, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series


class HangsOnce(MemorySink):
    """Never answers its first call."""

    def __init__(self, calls: list[bytes], records: list[Any]) -> None:
        super().__init__()
        self.calls, self.records = calls, records

    async def write(self, batch: Batch) -> Receipt:
        self.calls.append(activity.info().task_token)
        if len(self.calls) == 1:
            await anyio.sleep_forever()
        return await super().write(batch)


async def test_hanging_chunk_is_stopped_and_another_attempt_succeeds(
    server: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bytes] = []
    records: list[Any] = []
    usual = Patience.heartbeat

    def heartbeat(self: Patience, look: Callable[[], Progress], *others: Any) -> Coroutine[Any, Any, None]:
        """On a busy machine, the attempts that do not hang may stand still for as long."""
        token = activity.info().task_token
        return usual(self, lambda: replace(look(), excused=token not in calls[:1]), *others)

    monkeypatch.setattr(Patience, "heartbeat", heartbeat)
    plan = made_anew(MemorySource(numbered(4)), lambda: HangsOnce(calls, records))
    async with workshop(server, plan) as shop, shop.worker(stall_after=0.3, beat_every=0.1):
        result = await shop.run(run_id="hangs")
        found = await family(shop.client, "etl/test/hangs")

    assert (result.status, result.counts.written, sorted(records)) == ("completed", 40, list(range(40)))
    assert sorted(found.attempts()) == [1] * 6 + [2]
    [failure] = [
        event.activity_task_started_event_attributes.last_failure
        for history in found.all
        for event in history.events
        if kind(event) == "ACTIVITY_TASK_STARTED"
        and event.activity_task_started_event_attributes.attempt == 2
    ]
    assert failure.application_failure_info.type == "Stalled"
    assert failure.message.startswith("no progress for 0.3 s")


class Blocks(MemorySink):
    """Holds the event loop up, as a library without `await` does, until somebody has noticed."""

    def __init__(self, noticed: threading.Event) -> None:
        super().__init__()
        self.noticed = noticed

    async def write(self, batch: Batch) -> Receipt:
        self.blocks()
        return await super().write(batch)

    def blocks(self) -> None:
        self.noticed.wait(PATIENCE)


async def test_what_blocks_a_workers_event_loop_is_named(server: DevServer) -> None:
    noticed = threading.Event()
    stages: list[RunEvent] = []

    def observe(stage: RunEvent) -> None:
        stages.append(stage)
        if stage.action == "event_loop" and "(blocks)" in stage.message:
            noticed.set()  # on a busy machine, something else may hold the loop before

    plan = made_anew(MemorySource(numbered(1)), lambda: Blocks(noticed))
    engine = Engine(observer=observe)
    async with workshop(server, plan, engine=engine) as shop, shop.worker(blocked_after=0.2):
        result = await shop.run()

    told = [stage for stage in stages if stage.action == "event_loop" and "(blocks)" in stage.message]
    assert result.status == "completed"
    assert told[0].level == "warning"
    assert "test_stalls.py" in told[0].message
