"""The endurance command detects growth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.reliability.endurance import LIMITS, courses, main
from tests.reliability.harness.enduring import Sample

STEADY = Sample(0.0, rss=200 << 20, descriptors=40, threads=10, tasks=60, state=20 << 20, records=0)


def samples(**grow: int) -> list[Sample]:
    """Thirty samples in which these figures grow by so much each time."""
    return [
        replace(STEADY, **{name: getattr(STEADY, name) + number * step for name, step in grow.items()})
        for number in range(30)
    ]


def test_what_stays_as_it_is_counts_as_flat() -> None:
    assert [one.name for one in courses(samples()) if one.grew] == []


@pytest.mark.parametrize(
    ("name", "step"),
    [("rss", 3 << 20), ("descriptors", 1), ("threads", 1), ("tasks", 2), ("state", 1 << 20)],
)
def test_constant_growth_is_named(name: str, step: int) -> None:
    assert [one.name for one in courses(samples(**{name: step})) if one.grew] == [name]


def test_growth_at_the_beginning_is_warm_up() -> None:
    cold = [replace(STEADY, rss=50 << 20, tasks=5)] * 10
    assert not any(one.grew for one in courses([*cold, *samples()[:20]]))


def test_every_figure_has_a_limit() -> None:
    assert set(LIMITS) == {"rss", "descriptors", "threads", "tasks", "state"}


@pytest.mark.series
def test_a_short_course_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    main(["--minutes", "0.2", "--documents", "20", "--probability", "0.02", "--out", str(out)])
    report = json.loads(out.read_text())
    # such a short one is all warm-up, so it may have grown
    assert [text for text in report["problems"] if " grew " not in text] == []
    assert report["records"] > 0
    assert report["rounds"]["completed"] > 0
