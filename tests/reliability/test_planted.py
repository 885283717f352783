"""The harness finds bugs planted in the engine."""

from __future__ import annotations

import pytest

from tests.reliability.harness.blows import Blow, Plan
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.workload import Workload

BLOWS = 12


@pytest.mark.series
@pytest.mark.parametrize(
    ("bug", "place", "found"),
    [
        ("position_before_ack", "ledger_committed", "undisturbed"),
        ("replay_unmarked", "batch_written", "doubled"),
        ("settled_twice_on_paper", "ledger_committed", "undisturbed"),
    ],
)
def test_a_planted_bug_is_found(lab: Lab, bug: str, place: str, found: str) -> None:
    """A blow that falls between two splits, or with nothing in flight, shows none of them: strike again."""
    program = ("tests/reliability/harness/planted.py", bug)
    workload = Workload(("blobs",), records=20_000)
    problems: list[str] = []
    for times in range(1, BLOWS + 1):
        problems = lab.trial(Plan(bug, workload, (Blow(f"{place}:{times}"),), program=program)).problems
        if any(found in problem for problem in problems):
            return
    pytest.fail(f"{BLOWS} blows at {place} did not show it: {problems}")
