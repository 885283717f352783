"""Events of a run and of its components."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest

import engine
from engine.contract.batch import Batch
from engine.errors import RecordError
from engine.execution.engine import Engine
from engine.execution.events import RunEvent
from engine.telemetry import configure_logging, log_event
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import Apply, Wait, pages

pytestmark = pytest.mark.anyio


async def stages_of(transform: Apply) -> list[RunEvent]:
    told: list[RunEvent] = []
    plan = linear_plan(MemorySource({"a": pages(40)}), transform, MemorySink(), pipeline="numbers")
    async with Engine(observer=told.append) as owner:
        report = await owner.run(plan)
    assert report.ok
    assert {(one.pipeline, one.run_id) for one in told} == {("numbers", report.run_id)}
    return told


async def test_each_node_says_what_became_of_its_records() -> None:
    def half(batch: Batch) -> Batch:
        return batch.outcomes([RecordError("odd") if one % 2 else one for one in batch.records])

    told = await stages_of(Wait(half))
    ended = {one.action: one for one in told if one.action.endswith("_finished")}

    assert list(ended) == ["n0_finished", "n1_finished", "n2_finished", "run_finished"]
    assert ended["n0_finished"].message.endswith(": 40 records read")
    assert ended["n1_finished"].message.endswith(": 40 records in, 20 out, 20 dead")
    assert {name: one.level for name, one in ended.items()} == {
        "n0_finished": "info",
        "n1_finished": "warning",
        "n2_finished": "info",
        "run_finished": "info",
    }
    assert (ended["n2_finished"].numbers["records_in"], ended["n1_finished"].numbers["dead"]) == (20, 20)


async def test_a_node_says_once_that_it_has_started() -> None:
    told = await stages_of(Wait(lambda batch: batch))
    counted = Counter(one.action for one in told if one.action.endswith("_started"))
    assert counted["run_started"] == 1
    assert set(counted.values()) == {1}


async def test_what_user_code_says_in_a_run_is_a_stage_of_it() -> None:
    def speaking(batch: Batch) -> Batch:
        engine.cli_log("Extract", "half of it", "success", files=3)
        return batch

    told = await stages_of(Apply(speaking))
    said = [one for one in told if one.action == "Extract"]
    assert (said[0].message, said[0].level, said[0].numbers) == ("half of it", "info", {"files": 3})


async def test_the_log_gets_what_user_code_says_with_its_run() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    def speaking(batch: Batch) -> Batch:
        engine.cli_log("mine", "hello")
        return batch

    plan = linear_plan(MemorySource({"a": pages(1)}), Apply(speaking), MemorySink(), pipeline="numbers")
    async with Engine(observer=log_event) as owner:
        report = await owner.run(plan)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    (line,) = [line for line in lines if line["action"] == "mine"]
    assert (line["message"], line["run"], line["pipeline"]) == ("hello", report.run_id, "numbers")


async def test_without_an_observer_user_code_is_heard_all_the_same() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)

    def speaking(batch: Batch) -> Batch:
        engine.cli_log("mine", "hello")
        return batch

    plan = linear_plan(MemorySource({"a": pages(1)}), Apply(speaking), MemorySink(), pipeline="numbers")
    async with Engine() as owner:
        await owner.run(plan)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["action"], line["pipeline"]) == ("mine", "numbers")
