"""The gate that holds the pipelines of a durable trial."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from engine.config import load_file
from engine.contract.batch import Batch
from engine.contract.component import Context, NoParams
from engine.contract.keys import KeyRange
from tests.reliability.harness.gate import CLOSED, NOTES, Gate, Note, notes
from tests.reliability.harness.pipeline_file import pipeline_file
from tests.reliability.harness.workload import Workload


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    gate = tmp_path / "gate"
    gate.touch()
    monkeypatch.setenv(CLOSED, str(gate))
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    return gate


def gate_in(ctx: Context) -> Gate:
    gate = Gate(NoParams())
    gate.ctx = replace(ctx, run_id="r", chunk="n/0+1")
    return gate


PAGE = Batch([1, 2], KeyRange("k/", 0, 2))


async def test_a_closed_gate_notes_what_arrives_and_holds_it(closed: Path, tmp_path: Path) -> None:
    through = anyio.Event()

    async def pass_by() -> None:
        await gate_in(Context()).apply(PAGE)
        through.set()

    with anyio.fail_after(300):
        async with anyio.create_task_group() as group:
            group.start_soon(pass_by)
            while not list(notes(tmp_path / "notes")):  # noqa: ASYNC110 - a file tells of no change
                await anyio.sleep(0.01)
            assert not through.is_set()
            os.unlink(closed)
            await through.wait()

    assert list(notes(tmp_path / "notes")) == [Note("r", "n/0+1", ("k/0", "k/1"))]


@pytest.mark.usefixtures("closed")
async def test_a_chunk_that_is_told_to_stop_delivers_what_a_gate_held() -> None:
    with anyio.fail_after(300):
        passed = await gate_in(Context(draining=lambda: True)).apply(PAGE)

    assert passed.records == [1, 2]


def test_a_line_that_is_being_written_is_no_note_yet(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    assert list(notes(file)) == []
    file.write_text('["r", "c", ["k/0"]]\n["r", "c", ["k', "utf-8")

    assert [note.keys for note in notes(file)] == [("k/0",)]


@pytest.mark.slow
def test_each_pipeline_has_its_gate_in_front_of_its_first_sink(tmp_path: Path) -> None:
    workload = Workload(("logs", "unstructured_data"), seed=7, calls=1)
    file = load_file(str(pipeline_file(workload, tmp_path / "gated.yaml", gated=True)), environ={})
    plain = load_file(str(pipeline_file(workload, tmp_path / "plain.yaml")), environ={})

    nodes = {name: [node.name for node in pipeline.nodes] for name, pipeline in file.pipelines.items()}
    assert nodes == {
        "logs": ["extract", "simulate", "gate", "load"],
        "unstructured_data": ["files", "rows", "simulate", "gate", "stage", "extract", "load"],
    }
    assert all(node.name != "gate" for pipeline in plain.pipelines.values() for node in pipeline.nodes)
