"""An outage that a chunk waits for in several parts is as long as all of them."""

from __future__ import annotations

import pytest

from engine.acks import Tally
from engine.component import Kind
from engine.errors import OutageError
from engine.stats import NodeStats, RunSnapshot, Waiting
from engine.temporal import pulse
from engine.temporal.pulse import OutageTimer


class Course:
    """A part of a chunk that is looked at every minute.

    Args:
        before: seconds that the outage had lasted when it began.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: float, limit: float = 3600.0) -> None:
        self._now = 0.0
        monkeypatch.setattr(pulse.anyio, "current_time", lambda: self._now)
        self.timer = OutageTimer(before, limit)

    def look(self, waiting: Waiting, written: int = 0) -> OutageError | None:
        self._now += 60.0
        sink = NodeStats("load", Kind.SINK, "sink")
        with sink.waits(waiting, "503"):
            snapshot = RunSnapshot("r", "p", self._now, Tally(written=written), 0, 0, [sink.snapshot(1.0)])
        return self.timer.look(snapshot)


def test_it_lasts_from_the_beginning_of_the_part_when_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course(monkeypatch, 0.0)
    for waiting in (Waiting.RETRY, Waiting.OUTAGE, Waiting.NOTHING, Waiting.OUTAGE):
        assert course.look(waiting) is None
    assert course.timer.lasted == 240.0


def test_there_is_none_while_calls_are_only_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, 0.0)
    course.look(Waiting.RETRY)
    assert course.timer.lasted == 0.0


def test_it_ends_the_part_in_which_all_parts_together_reach_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course(monkeypatch, 3450.0)
    assert course.look(Waiting.OUTAGE) is None
    assert course.look(Waiting.OUTAGE) is None
    error = course.look(Waiting.OUTAGE)
    assert isinstance(error, OutageError)
    assert (str(error), error.node) == ("'load' could not go on for 3630 s; last answer: 503", "load")


def test_one_that_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(monkeypatch, 3500.0)
    course.look(Waiting.OUTAGE, written=10)
    course.look(Waiting.NOTHING, written=20)
    for _ in range(10):
        assert course.look(Waiting.OUTAGE, written=20) is None
    assert course.timer.lasted == 600.0


def test_what_is_written_again_at_the_beginning_of_a_part_is_not_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = Course(monkeypatch, 3450.0)
    assert course.look(Waiting.NOTHING, written=500) is None
    assert course.look(Waiting.RETRY, written=510) is None
    assert course.look(Waiting.OUTAGE, written=510) is not None
