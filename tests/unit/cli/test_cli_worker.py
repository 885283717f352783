"""The engine that the arguments of `worker` create."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli.durable.options import WorkerOptions
from engine.cli.durable.worker import engine_of
from engine.cli.options import parsed
from engine.cli.verbs import parser_of
from engine.flow.budget import ProcessBudget


@pytest.mark.parametrize(("grace", "limit"), [("10", 9.0), ("60", 54.0), ("900", 300.0)])
async def test_chunks_deliver_within_the_grace_period(tmp_path: Path, grace: str, limit: float) -> None:
    arguments = ["--grace", grace, "--state-dir", str(tmp_path), "--log-format", "none"]
    options = parsed(WorkerOptions, parser_of("worker").parse_args(arguments))
    async with engine_of(options) as engine:
        budget = ProcessBudget(1_000_000).pipeline(1_000_000)
        assert engine.resources(budget).drain_limit == limit
        budget.close()
