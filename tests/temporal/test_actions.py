"""The Temporal actions of a run match the capacity model."""

from __future__ import annotations

import anyio
import pytest

from benchmarks.actions import actions_of
from benchmarks.capacity import Demand, forecast
from benchmarks.listing import plan_of
from tests.servers.temporal import DevServer
from tests.temporal.stubs import Stubs
from tests.temporal.workshop import PATIENCE, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

WITHIN = 0.10


@pytest.mark.parametrize("chunks", [1, 3, 30])
async def test_run_takes_as_many_actions_as_the_model_predicts(server: DevServer, chunks: int) -> None:
    objects = chunks * 20
    async with workshop(server, plan_of(objects, split_objects=20)) as shop, shop.worker():
        handle = await shop.start(heartbeat=PATIENCE)
        with anyio.fail_after(PATIENCE):
            result = await handle.result()
        counted = await actions_of(shop.client, handle.id)

    assert (result.status, result.chunks, result.counts.written) == ("completed", chunks, objects)
    expected = forecast(Demand(objects=objects, split_objects=20, workers=1, cpu_per_object=0)).actions
    assert abs(expected / counted - 1) <= WITHIN, (expected, counted)


async def test_each_action_is_counted_once(server: DevServer) -> None:
    stubs = Stubs(server.client, splits=2)
    async with stubs.working():
        handle = await stubs.start(shards=1, search_attributes=True)
        with anyio.fail_after(PATIENCE):
            await handle.result()
        # started, three activities, five times where it is, a shard, two chunks
        assert await actions_of(stubs.client, handle.id) == 1 + 3 + 5 + 2 + 2
