"""Runs that begin in the same second: followers and ticks have separate ids, and share nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from engine.config.model import Settings
from engine.contract.types import JsonValue
from engine.plan.model import Plan
from engine.state.records import RunRecord, RunStatus
from engine.state.store import StateStore
from engine.temporal.messages import PipelineRequest
from engine.temporal.workflows import PipelineRun
from engine.testing import MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.workshop import PATIENCE, Held, Workshop, made_anew, numbered, workshop

# the default run meets durable runs elsewhere; the night and `just series` run this
pytestmark = pytest.mark.series

AT_ONCE = 30


def two_pipelines(rows: list[Any]) -> Any:
    """`first` is followed by `second`, which writes seven rows."""
    gate = anyio.Event()
    gate.set()

    def plans(pipeline: str, params: Mapping[str, JsonValue]) -> Plan:
        if pipeline == "first":
            return linear_plan(
                MemorySource(numbered(1)),
                Held([], gate),
                pipeline="first",
                settings=Settings(on_complete=("second",)),
            )
        return made_anew(MemorySource(numbered(1, size=7)), lambda: Held(rows, gate), pipeline="second")

    return plans


async def ended(store: StateStore, pipeline: str, count: int) -> list[RunRecord]:
    with anyio.fail_after(PATIENCE):
        while True:
            runs = await store.list_runs(pipeline=pipeline)
            if len(runs) == count and all(run.status is not RunStatus.RUNNING for run in runs):
                return runs
            await anyio.sleep(0.1)


async def test_followers_of_one_second_have_runs_of_their_own(server: DevServer) -> None:
    rows: list[Any] = []
    async with workshop(server, two_pipelines(rows)) as shop, shop.worker():
        await asyncio.gather(*(shop.run("first", shards=1) for _ in range(AT_ONCE)))
        runs = await ended(shop.engine.store, "second", AT_ONCE)

    assert {run.status for run in runs} == {RunStatus.COMPLETED}
    assert len({run.group_id for run in runs}) == AT_ONCE
    assert len(rows) == AT_ONCE * 7


async def test_workflows_without_a_run_id_never_share_one(server: DevServer) -> None:
    rows: list[Any] = []
    async with workshop(server, two_pipelines(rows)) as shop, shop.worker():
        results = await asyncio.gather(*(_tick(shop, number) for number in range(AT_ONCE)))

    assert len({result.run_id for result in results}) == AT_ONCE
    assert [result.counts.written for result in results] == [7] * AT_ONCE
    assert len(rows) == AT_ONCE * 7


async def _tick(shop: Workshop, number: int) -> Any:
    request = PipelineRequest("second", queues=shop.queues, shards=1)
    handle = await shop.client.start_workflow(
        PipelineRun.run,
        request,
        id=f"etl/second/scheduled-{shop.queues.work}-{number}",
        task_queue=shop.queues.workflows,
    )
    with anyio.fail_after(PATIENCE):
        return await handle.result()
