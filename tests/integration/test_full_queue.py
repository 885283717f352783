"""A service that commits too slowly reports it, and the run waits instead of reading on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest

import engine
from connectors.models import INGEST_MODELS
from engine.execution.engine import Engine
from engine.execution.run import Run
from engine.flow.stats import RunSnapshot
from engine.plan.model import Plan
from engine.service.commit import Encoded, GroupCommit
from engine.service.server import running_service
from engine.service.settings import ServiceSettings
from engine.service.submission import Receipt
from engine.testing import ScriptedClock

RECORDS = 20_000


def loading(folder: Path, url: str) -> Plan:
    file = folder / "p.yaml"
    file.write_text(
        f'version: 1\nconnections: {{warehouse: {{url: "{url}"}}}}\n'
        "pipelines:\n  p:\n    nodes:\n"
        f"      read: {{source: blob, with: {{records: {RECORDS}}}}}\n"
        "      load: {sink: ingest, with: {connection: warehouse, model: BlobSource}}",
        "utf-8",
    )
    (plan,) = engine.load(file).values()
    return plan


@pytest.mark.slow
async def test_full_commit_queue_pauses_reading_without_deaths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, real = threading.Event(), GroupCommit.commit

    def commit(self: GroupCommit, group: Sequence[Encoded]) -> list[Receipt]:
        assert gate.wait(300)
        return real(self, group)  # type: ignore[return-value]

    monkeypatch.setattr(GroupCommit, "commit", commit)
    clock, settings = ScriptedClock(), ServiceSettings(max_queued_requests=1)
    seen: list[RunSnapshot] = []

    async def watch(run: Run, full: str) -> None:
        still = 0
        while still < 100:  # a tenth of a second
            before = run.snapshot()
            await anyio.sleep(0.001)  # the service has threads of the same interpreter
            same = run.snapshot().tally.read == before.tally.read > 0 and before.waits_for == full
            still = still + 1 if same else 0
        seen.append(run.snapshot())
        gate.set()
        while True:
            clock.advance(0.01)  # ten minutes of outage are a minute, which no busy machine needs
            await anyio.sleep(0.001)

    async with (
        running_service(tmp_path / "state", models=INGEST_MODELS, settings=settings) as service,
        Engine(clock=clock) as owner,
        owner.start(loading(tmp_path, service.url), verify=True) as run,
        anyio.create_task_group() as group,
    ):
        with anyio.fail_after(300):
            group.start_soon(watch, run, f"load (POST {service.url}/ingest/BlobSource answered 429)")
            report = await run.wait()
            group.cancel_scope.cancel()

    assert seen[0].tally.read < RECORDS
    assert (report.ok, report.verified) == (True, True)
    assert (report.tally.written, report.tally.dead) == (RECORDS, 0)
