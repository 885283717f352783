"""Nothing lost, nothing twice: a short, seeded series of SIGKILLs to the engine.

The long form is `python -m tests.reliability`; docs/reliability.md says what is compared.
"""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from engine.fault_injection import FAULT_POINTS
from tests.reliability.harness.blows import Blow, Plan
from tests.reliability.harness.outcome import KILLED
from tests.reliability.harness.short import short_kills
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.workload import PIPELINES, Workload

KILLS = short_kills(seed=1)


# only the documents come by every place, and the default run strikes at some of them
DOCUMENTS = next(plan for plan in KILLS if plan.workload.pipelines == PIPELINES[-1:])
SOME = replace(DOCUMENTS, name="some", blows=DOCUMENTS.blows[1::4])
BY_PIPELINES = [
    pytest.param(SOME, id="some"),
    *(pytest.param(plan, id=",".join(plan.workload.pipelines), marks=pytest.mark.series) for plan in KILLS),
]


@pytest.mark.slow
@pytest.mark.parametrize("plan", BY_PIPELINES)
def test_killed_at_every_stage(lab: Lab, plan: Plan) -> None:
    outcome = lab.trial(plan)

    assert outcome.problems == []
    assert outcome.codes == [KILLED] * len(plan.blows) + [0], "each place was come by"


@pytest.mark.series
def test_all_pipelines_killed_together(lab: Lab) -> None:
    blows = (Blow("splits_stored:3"), Blow(after=0.9), Blow("batch_read:5"))

    outcome = lab.trial(Plan("together", Workload(), blows))

    assert outcome.problems == []
    assert outcome.codes[0] == KILLED
    assert outcome.codes[-1] == 0


def test_forty_kills_are_spread_over_every_stage_and_pipeline() -> None:
    blows = [blow for plan in KILLS for blow in plan.blows]

    assert len(blows) + 1 >= 40, "and one when all run together"
    assert {blow.place for blow in blows} == set(FAULT_POINTS)
    assert {name for plan in KILLS for name in plan.workload.pipelines} == set(PIPELINES)
    assert short_kills(seed=1) == KILLS
    assert short_kills(seed=2) != KILLS


def test_the_signal_of_a_drain_is_the_one_that_users_send() -> None:
    assert Blow(after=1.0, signal=signal.SIGTERM).kills is False
    assert Blow("batch_read:1:TERM").kills is False
    assert Blow("batch_read:1:TERM,draining:1").kills is True
    assert Blow(after=1.0).kills is True
