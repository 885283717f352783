"""Workers that share only a server and a database, as on several machines."""

from __future__ import annotations

from typing import Any

import pytest

from engine.execution.engine import Engine
from engine.state import RunStatus, open_store
from engine.testing import MemorySink, MemorySource
from tests.servers.postgres import Postgres
from tests.servers.temporal import DevServer
from tests.temporal.workshop import made_anew, numbered, workshop

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series


class Collecting(MemorySink):
    """Adds its records to a list of the test."""

    def __init__(self, records: list[Any]) -> None:
        super().__init__()
        self.records = records


async def test_workers_share_a_run_through_the_database(server: DevServer, postgres: Postgres) -> None:
    postgres.clear()
    records: list[Any] = []
    plan = made_anew(MemorySource(numbered(12)), lambda: Collecting(records))

    def engine() -> Engine:
        return Engine(store=open_store(postgres.address()))

    async with (
        workshop(server, plan, engine=engine()) as office,
        workshop(server, plan, engine=engine()) as mill,
    ):
        mill.queues = office.queues
        async with office.worker(roles=("workflows", "planning")), mill.worker(roles=("work",)):
            result = await office.run(shards=2, window=2, chunk_splits=2)
        (run,) = await office.engine.store.list_runs()
        tally = await office.engine.store.tally(run.run_id)
        held = await office.engine.store.leases(run.run_id)
    assert sorted(records) == list(range(120))
    assert (result.counts.read, result.counts.written) == (120, 120)
    assert (run.status, tally.read, tally.written, held) == (RunStatus.COMPLETED, 120, 120, [])
