"""Runs that stop at a budget, the dead-letter limit or a fatal error pay and deliver nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.harness.stops import STOPS, stop_trial


@pytest.mark.parametrize("number", range(len(STOPS)), ids=STOPS)
def test_a_stop_in_flight_pays_and_delivers_once(number: int, tmp_path: Path) -> None:
    outcome = stop_trial(1, number, tmp_path)

    assert outcome.struck == [STOPS[number]]
    assert outcome.problems == []
