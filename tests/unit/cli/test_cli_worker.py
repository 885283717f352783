"""The engine that the arguments of `worker` create."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.cli import worker
from engine.cli.durable.worker import engine_of
from engine.flow.budget import ProcessBudget


@pytest.mark.parametrize(("grace", "limit"), [("10", 9.0), ("60", 54.0), ("900", 300.0)])
async def test_chunks_deliver_within_the_grace_period(tmp_path: Path, grace: str, limit: float) -> None:
    parser = argparse.ArgumentParser()
    worker.add_arguments(parser)
    options = parser.parse_args(["--grace", grace, "--state-dir", str(tmp_path), "--log-format", "none"])
    async with engine_of(options) as engine:  # type: ignore[arg-type]
        budget = ProcessBudget(1_000_000).pipeline(1_000_000)
        assert engine.resources(budget).drain_limit == limit
        budget.close()
