"""Triggers and ticks of a killed service cause one run each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.cli.local.ticks import name_of
from engine.state.records import RunRecord, RunStatus
from tests.reliability.harness.firing import EVERY, KILLS, firing_trial, what_fired_wrongly

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = [150, 150, 400, 400]


def run(name: str, pipeline: str = "triggered") -> RunRecord:
    return RunRecord(name, pipeline, "", "", {}, {}, {}, "", "", status=RunStatus.COMPLETED)


def tick(number: int) -> RunRecord:
    return run(name_of("ticked", FIRST + number * timedelta(seconds=EVERY)), "ticked")


TICKS = [tick(0), tick(1), tick(2)]


@pytest.mark.series
def test_triggers_and_ticks_fire_once_through_kills(tmp_path: Path) -> None:
    outcome = firing_trial(1, 0, tmp_path)

    assert outcome.problems == []
    assert len(outcome.struck) == KILLS


@pytest.mark.parametrize(
    ("answered", "unanswered", "runs", "rows", "wrong"),
    [
        (["a", "b"], 0, [run("a"), run("b"), *TICKS], ROWS, ""),
        (["a"], 1, [run("a"), run("b"), *TICKS], ROWS, ""),
        (["a", "b", "c"], 0, [run("a"), run("b"), *TICKS], ROWS, "without a run: ['c']"),
        (["a"], 0, [run("a"), run("b"), *TICKS], ROWS, "2 runs of 1 triggers and 0 unanswered"),
        (["a", "b", "b"], 0, [run("a"), run("b"), *TICKS], ROWS, "answered with the same run"),
        (["a", "b"], 0, [run("a"), run("b"), tick(0), tick(1), tick(3)], ROWS, "left out or doubled after"),
        (["a", "b"], 0, [run("a"), run("b"), *TICKS], [151, 150, 400, 400], "stored twice: 1 blobs, 0 logs"),
        (["a", "b"], 0, [run("a"), run("b"), *TICKS], [150, 150, 399, 399], "399 logs of 2 triggered runs"),
        (["a", "b"], 0, [run("a"), run("b"), *TICKS], [149, 149, 400, 400], "149 blobs of 3 ticks"),
    ],
)
def test_triggers_that_fire_twice_or_never_are_found(
    answered: Sequence[str], unanswered: int, runs: list[RunRecord], rows: list[int], wrong: str
) -> None:
    found = what_fired_wrongly(answered, unanswered, runs, rows)
    assert [wrong in one for one in found] == ([True] if wrong else [])
