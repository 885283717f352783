"""The series of the long form: fixed by their seeds, spread over every place, kept in files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.fault_injection import FAULT_POINTS, SERVICE_FAULT_POINTS
from tests.reliability.harness.blows import Plan
from tests.reliability.harness.drawing import (
    PLACES,
    SERVICE_PLACES,
    drawn_both,
    drawn_drains,
    drawn_kills,
    drawn_service,
    drawn_service_kills,
)
from tests.reliability.harness.results import ResultFile, table
from tests.reliability.harness.series import SERIES, Entry, Series
from tests.reliability.harness.workload import PIPELINES

DRAWERS = [drawn_kills, drawn_service, drawn_both, drawn_drains]


@pytest.mark.parametrize("drawn", DRAWERS)
def test_a_series_is_the_same_for_the_same_seed(drawn: Callable[[int, int], Plan]) -> None:
    first, again, other = ([drawn(seed, number) for number in range(50)] for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_kills_are_spread_over_every_place_and_pipeline() -> None:
    plans = [drawn_kills(1, number) for number in range(100)]
    dealt = Counter(blow.place for plan in plans for blow in plan.blows)

    assert set(dealt) == {*FAULT_POINTS, "any moment"}
    assert min(dealt.values()) >= 10
    assert {name for plan in plans for name in plan.workload.pipelines} == set(PIPELINES)
    assert all(blow.kills for plan in plans for blow in plan.blows)


def test_every_place_of_the_service_is_struck_at() -> None:
    kills = [kill for number in range(12) for kill in drawn_service_kills("clients", 1, number, 5)]

    assert set(Counter(kill.place for kill in kills)) == {*SERVICE_FAULT_POINTS, "any moment"}


def test_the_places_are_those_of_the_code() -> None:
    assert set(PLACES) == set(FAULT_POINTS)
    assert set(SERVICE_PLACES) == set(SERVICE_FAULT_POINTS)


def test_a_trial_of_both_strikes_both() -> None:
    for number in range(40):
        plan = drawn_both(1, number)
        assert len(plan.service) == 1
        assert plan.service[0].takes_engine is not bool(plan.blows)


def struck(*places: str, problems: tuple[str, ...] = ()) -> Entry:
    return {"name": "t", "struck": list(places), "problems": list(problems), "seconds": 1.5}


def test_series_ends_with_enough_in_total_and_at_each_place() -> None:
    series = Series("s", "title", 3, open, {"a": 1, "b": 1})

    assert not series.done([struck("a", "b")])
    assert not series.done([struck("a", "a"), struck("a")])
    assert series.done([struck("a", "a"), struck("b")])


def test_a_file_is_resumed(tmp_path: Path) -> None:
    series = SERIES["kills"]
    first = ResultFile(series, 1, tmp_path)
    first.add(struck("batch_read"))
    first.add(struck("draining", problems=("1 lost",)))

    again = ResultFile(series, 1, tmp_path)

    assert again.trials == first.trials
    assert (again.problems, again.done) == (1, False)
    document = json.loads((tmp_path / "kills.json").read_text("utf-8"))
    assert (document["series"], document["seed"]) == ("kills", 1)
    assert document["summary"]["struck"] == 2
    assert document["summary"]["by_place"]["batch_read"] == 1
    with pytest.raises(ValueError, match="another series"):
        ResultFile(series, 2, tmp_path)


def test_the_table_has_a_line_for_each_series(tmp_path: Path) -> None:
    files = [ResultFile(series, 1, tmp_path) for series in SERIES.values()]
    files[0].add(struck("batch_read"))

    lines = table(files).splitlines()

    assert len(lines) == 1 + len(SERIES)
    assert "1 of 200" in lines[1]
