"""Stored histories replay with the current workflows, but not with changed ones.

A test that fails here says that runs under way would break. Either the change can be made without that
(`workflow.patched`), or runs have to end before it is deployed: then `python -m tests.temporal.record` makes
the histories again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.runtime import Runtime
from temporalio.worker import Replayer

from engine.temporal.connection import converter
from engine.temporal.shards import ShardRun
from engine.temporal.workflows import WORKFLOWS, PipelineRun
from tests.series import few
from tests.unit.temporal.mutated import OneByOne, Sleepy

FOLDER = Path(__file__).parents[2] / "temporal" / "histories"
SCENARIOS = {"done", "continued", "paused", "cancelled", "parked"}
STORED = sorted(FOLDER.glob("*.json"))


def read(path: Path) -> WorkflowHistory:
    history = json.loads(path.read_text("utf-8"))
    name = history["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    return WorkflowHistory.from_json(name, history)


def test_there_is_a_history_of_each_kind_of_run() -> None:
    assert {path.stem.partition("-")[0] for path in STORED} == SCENARIOS
    assert len([path for path in STORED if path.stem.startswith("continued-shard")]) > 1


@pytest.fixture(scope="module", autouse=True)
def _runtime_before_what_is_left_behind_is_counted() -> None:
    """The SDK's threads stay until the process ends."""
    Runtime.default()


@pytest.mark.slow
@pytest.mark.parametrize("path", few(STORED, 4), ids=lambda path: path.stem)
async def test_stored_histories_replay(path: Path) -> None:
    # the sandbox is on by default
    await Replayer(workflows=WORKFLOWS, data_converter=converter()).replay_workflow(read(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workflows", "name"),
    [((PipelineRun, OneByOne), "done-shard-0-0"), ((Sleepy, ShardRun), "done-run")],
)
async def test_replay_detects_a_changed_workflow(workflows: tuple[type, ...], name: str) -> None:
    replayer = Replayer(workflows=workflows)
    with pytest.raises(workflow.NondeterminismError):
        await replayer.replay_workflow(read(FOLDER / f"{name}.json"))
