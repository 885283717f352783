"""Nothing lost, nothing twice: a short, seeded series of kills, drains and broken wires.

The long form is `python -m tests.reliability`; docs/reliability.md says what is compared.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from engine.faultpoints import FAULT_POINTS
from tests.reliability.harness.blows import Blow, Plan, ServiceKill
from tests.reliability.harness.proxy import Faults
from tests.reliability.harness.trial import DRAINED, KILLED, STOPPED, Lab, Outcome, laboratory
from tests.reliability.harness.workload import PIPELINES, SIMULATED, Workload

DOCUMENTS = Workload(PIPELINES[-1:])

KILLS = [
    # planning, then reading
    (Workload(), ["splits_stored:3", "batch_read:20"]),
    # a simulated pipeline, each stage of a batch in turn
    (Workload(("blobs",)), ["batch_written:4", "ledger_committing:2", "ledger_committed:1"]),
    # keys that may have been delivered before; letters stored and not settled
    (Workload(("events", "logs"), seed=11), ["dead_letter_stored:5", "books_closed:1"]),
    # a prompt that was not sent, an answer that was paid and not used, a letter that was forwarded
    (DOCUMENTS, ["packed:7", "model_paid:9", "dead_letter_forwarded:2"]),
    # killed while it drains
    (Workload(SIMULATED), ["batch_read:9:TERM,draining:2"]),
]
MOMENTS = [1.1]  # seconds; the long form draws them


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with laboratory(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(autouse=True)
def _lab_before_what_is_left_behind_is_counted(lab: Lab) -> None:
    """The lab's process outlives each test; it has to be there before the first one is looked at."""


def codes(outcome: Outcome) -> list[int]:
    return [attempt.exit_code for attempt in outcome.attempts]


@pytest.mark.parametrize(
    ("workload", "points"), KILLS, ids=lambda value: str(value) if isinstance(value, list) else ""
)
def test_killed_at_a_stage(lab: Lab, workload: Workload, points: list[str]) -> None:
    outcome = lab.trial(Plan("stages", workload, tuple(Blow(point) for point in points)))

    assert outcome.problems == []
    assert codes(outcome)[: len(points)] == [KILLED] * len(points), "each point was come by"


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment(lab: Lab, moment: float) -> None:
    outcome = lab.trial(Plan("moments", Workload(), (Blow(after=moment),)))

    assert outcome.problems == []


def test_every_stage_is_among_those_that_are_struck() -> None:
    struck = {item.partition(":")[0] for _, points in KILLS for point in points for item in point.split(",")}

    assert set(FAULT_POINTS) - struck == {"splits_listed"}, "`splits_stored` lies right behind it"


def test_drained_and_gone_on_with(lab: Lab) -> None:
    outcome = lab.trial(Plan("drain", Workload(), (Blow("batch_read:12:TERM"),)))

    assert outcome.problems == []
    assert codes(outcome) == [DRAINED, 0]


def test_stopped_by_the_second_signal_and_gone_on_with(lab: Lab) -> None:
    blow = Blow("batch_read:2:TERM,packed:3:TERM")
    outcome = lab.trial(Plan("stop", DOCUMENTS, (blow,)))

    assert outcome.problems == []
    assert codes(outcome) in ([STOPPED, 0], [DRAINED, 0])


def test_the_service_is_killed_and_comes_back_under_a_run(lab: Lab) -> None:
    workload = Workload(SIMULATED, records=8000)
    outcome = lab.trial(Plan("service", workload, (), (ServiceKill(after=0.9, down=0.3),)))

    assert outcome.problems == []
    assert codes(outcome) == [0], "the run waits for the service, nobody has to resume it"
    assert outcome.service_kills == 1


def test_every_wire_is_faulty(lab: Lab) -> None:
    """500 records of each kind and all documents; one in a hundred of some 500 exchanges goes wrong."""
    workload = Workload(records=500, page=5, documents=2)
    wires = {name: Faults(0.01, seed=f"5/{name}") for name in ("service", "model", "lake")}
    outcome = lab.trial(Plan("wires", workload, wires=wires))

    assert outcome.problems == []
    assert codes(outcome) == [0]
    assert min(outcome.exchanges.values()) > 20
    assert sum(outcome.exchanges.values()) > 400
    assert sum(outcome.wire_faults.values()) > 0


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
    for times in range(1, 7):
        problems = lab.trial(Plan(bug, workload, (Blow(f"{place}:{times}"),), program=program)).problems
        if any(found in problem for problem in problems):
            return
    pytest.fail(f"six blows at {place} did not show it: {problems}")


def test_the_signal_of_a_drain_is_the_one_that_users_send() -> None:
    assert Blow(after=1.0, signal=signal.SIGTERM).kills is False
    assert Blow("batch_read:1:TERM").kills is False
    assert Blow("batch_read:1:TERM,draining:1").kills is True
    assert Blow(after=1.0).kills is True
