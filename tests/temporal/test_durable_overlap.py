"""A durable run that starts while another run of its pipeline is running."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from engine.config.model import Settings
from engine.errors import RunOverlapError
from engine.execution.lease import acquire
from engine.state.records import RunStatus
from engine.testing import MemorySource
from tests.servers.temporal import DevServer
from tests.temporal.workshop import (
    PATIENCE,
    Handle,
    Held,
    Workshop,
    made_anew,
    numbered,
    until,
    workshop,
)

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series


@asynccontextmanager
async def one_under_way(
    server: DevServer, if_running: str
) -> AsyncGenerator[tuple[Workshop, Handle, anyio.Event], None]:
    """A workshop with a run in it that lasts until the gate is opened."""
    records: list[Any] = []
    gate, begun = anyio.Event(), anyio.Event()

    def note(chunk: str) -> None:
        begun.set()

    plan = made_anew(
        MemorySource(numbered(1)),
        lambda: Held(records, gate, note),
        pipeline="alone",
        settings=Settings(if_running=if_running),
    )
    async with workshop(server, plan) as shop, shop.worker():
        first = await shop.start("alone", shards=1)
        try:
            with anyio.fail_after(PATIENCE):
                await begun.wait()
            yield shop, first, gate
        finally:
            gate.set()
            await first.result()


async def test_a_second_run_is_refused_and_leaves_no_trace(server: DevServer) -> None:
    async with one_under_way(server, "refuse") as (shop, first, _):
        with pytest.raises(WorkflowFailureError) as raised:
            await shop.run("alone", shards=1)
        runs = await shop.engine.store.list_runs(pipeline="alone")

    assert isinstance(raised.value.cause, ApplicationError)
    assert (raised.value.cause.type, raised.value.cause.non_retryable) == ("RunOverlap", True)
    assert f"'alone' is already running: run {runs[0].run_id} by " in raised.value.cause.message
    assert [run.group_id for run in runs] == [first.id]


async def test_a_second_run_is_left_out(server: DevServer) -> None:
    async with one_under_way(server, "skip") as (shop, first, _):
        result = await shop.run("alone", shards=1)
        runs = await shop.engine.store.list_runs(pipeline="alone")

    assert (result.status, result.counts.read) == ("skipped", 0)
    assert "this run was skipped" in result.error
    assert [run.group_id for run in runs] == [first.id]


async def test_a_second_run_waits_for_the_first(server: DevServer) -> None:
    async with one_under_way(server, "wait") as (shop, first, gate):
        second = await shop.start("alone", shards=1)
        await until(second, lambda progress: progress.phase == "waiting")
        gate.set()
        with anyio.fail_after(PATIENCE):
            result = await second.result()
        runs = {run.group_id: run for run in await shop.engine.store.list_runs(pipeline="alone")}

    assert (result.status, result.counts.written) == ("completed", 10)
    assert runs[first.id].ended_at <= runs[second.id].started_at


async def test_a_second_run_may_be_allowed(server: DevServer) -> None:
    async with one_under_way(server, "allow") as (shop, _, gate):
        second = await shop.start("alone", shards=1)
        await until(second, lambda progress: progress.phase == "running")
        gate.set()
        with anyio.fail_after(PATIENCE):
            assert (await second.result()).status == "completed"


async def test_what_a_schedule_starts_is_refused_beside_another_run(server: DevServer) -> None:
    async with one_under_way(server, "") as (shop, _, _gate):
        with pytest.raises(WorkflowFailureError) as raised:
            await shop.run("alone", shards=1, schedule="5m")

    assert isinstance(raised.value.cause, ApplicationError)
    assert raised.value.cause.type == "RunOverlap"


async def test_a_run_whose_workflow_is_gone_blocks_no_other(server: DevServer) -> None:
    async with one_under_way(server, "refuse") as (shop, first, gate):
        gate.set()
        await first.result()
        store = shop.engine.store
        (record,) = await store.list_runs(pipeline="alone")
        async with acquire(store, shop.engine.clock, record.run_id) as lease:
            await store.update_run(record.run_id, status=RunStatus.RUNNING, epoch=lease.epoch)
        result = await shop.run("alone", shards=1)

    assert result.status == "completed"


async def test_a_local_run_is_refused_while_a_chunk_is_worked_on(server: DevServer) -> None:
    async with one_under_way(server, "refuse") as (shop, _, _gate):
        with pytest.raises(RunOverlapError):
            await shop.engine.run(shop.plans("alone", {}))
