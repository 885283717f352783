"""An outage that a chunk waits for in several parts lasts as long as all of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from engine.contract.acks import Tally
from engine.contract.component import Kind
from engine.errors import OutageError
from engine.flow.stats import NodeStats, RunSnapshot, Waiting
from engine.temporal import heartbeat
from engine.temporal.heartbeat import OutageTimer


class Course:
    """A part of a chunk with two sinks, that is looked at every minute.

    Args:
        before: seconds that the outages had lasted when it began, by sink.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, before: Mapping[str, float], limit: float = 3600.0
    ) -> None:
        self._now = 0.0
        monkeypatch.setattr(heartbeat.anyio, "current_time", lambda: self._now)  # type: ignore[attr-defined]
        self.timer = OutageTimer(before, limit)
        self._sinks = {name: NodeStats(name, Kind.SINK, "sink") for name in ("load", "copy")}

    def look(
        self, waiting: Waiting, written: int = 0, *, other: Waiting = Waiting.NOTHING, copied: int = 0
    ) -> OutageError | None:
        """A minute later: what the sinks wait for, and how much they have written in this part."""
        self._now += 60.0
        load, copy = self._sinks.values()
        load.records_out, copy.records_out = written, copied
        with load.waits(waiting, "503"), copy.waits(other, "504"):
            nodes = [load.snapshot(1.0), copy.snapshot(1.0)]
        tally = Tally(written=written + copied)
        return self.timer.look(RunSnapshot("r", "p", self._now, tally, 0, 0, nodes))


def test_outage_counts_from_the_part_start_without_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course(monkeypatch, {})
    for waiting in (Waiting.RETRY, Waiting.OUTAGE, Waiting.NOTHING, Waiting.OUTAGE):
        assert course.look(waiting) is None
    assert (course.timer.outages, course.timer.waited) == ({"load": 240.0}, 240.0)


def test_it_lasts_from_what_was_written_last(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {})
    course.look(Waiting.NOTHING, written=10)
    course.look(Waiting.RETRY, written=10)
    course.look(Waiting.OUTAGE, written=10)
    assert course.timer.outages == {"load": 120.0}


def test_there_is_none_while_calls_are_only_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {})
    course.look(Waiting.RETRY)
    assert (course.timer.outages, course.timer.waited) == ({}, 0.0)


def test_it_ends_the_part_in_which_all_parts_together_reach_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course(monkeypatch, {"load": 3450.0})
    assert course.look(Waiting.OUTAGE) is None
    assert course.look(Waiting.OUTAGE) is None
    error = course.look(Waiting.OUTAGE)
    assert isinstance(error, OutageError)
    assert (str(error), error.node) == ("'load' made no progress for 3630 s; last answer: 503", "load")


def test_what_another_sink_writes_meanwhile_is_not_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {"load": 3500.0})
    assert course.look(Waiting.OUTAGE, copied=100) is None
    error = course.look(Waiting.OUTAGE, copied=200)
    assert isinstance(error, OutageError)
    assert error.node == "load"


def test_the_next_part_is_told_how_long_it_has_lasted_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {"load": 1440.0})
    for copied in (100, 200, 300):
        assert course.look(Waiting.OUTAGE, copied=copied) is None
    assert (course.timer.outages, course.timer.waited) == ({"load": 1620.0}, 1620.0)


def test_a_part_that_ends_too_soon_to_meet_it_does_not_forget_it(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {"load": 1440.0})
    course.look(Waiting.RETRY, copied=100)
    assert (course.timer.outages, course.timer.waited) == ({"load": 1440.0}, 0.0)


def test_one_that_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {"load": 3500.0})
    course.look(Waiting.OUTAGE)
    course.look(Waiting.NOTHING, written=20)
    assert course.timer.outages == {}
    for _ in range(10):
        assert course.look(Waiting.OUTAGE, written=20) is None
    assert course.timer.outages == {"load": 600.0}


def test_progress_of_a_sink_restarts_its_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course(monkeypatch, {"load": 3500.0})
    course.look(Waiting.NOTHING, written=10)
    course.look(Waiting.RETRY, written=20)
    assert course.look(Waiting.OUTAGE, written=20) is None
    assert course.look(Waiting.OUTAGE, written=20) is None
    assert course.timer.outages == {"load": 120.0}


def test_first_write_of_a_part_does_not_end_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node may have answers of an earlier part, such as a model's that are in the journal."""
    course = Course(monkeypatch, {"load": 3450.0})
    assert course.look(Waiting.NOTHING, written=500) is None
    assert course.look(Waiting.RETRY, written=500) is None
    assert course.look(Waiting.OUTAGE, written=500) is not None


def test_each_of_two_sinks_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, {"load": 3000.0, "copy": 600.0})
    course.look(Waiting.OUTAGE, other=Waiting.OUTAGE)
    for written in (10, 20):
        assert course.look(Waiting.NOTHING, written=written, other=Waiting.OUTAGE) is None
    assert (course.timer.outages, course.timer.waited) == ({"copy": 780.0}, 780.0)
