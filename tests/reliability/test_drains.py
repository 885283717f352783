"""SIGTERM leaves nothing in flight, and a second one ends at once; a resume completes the run."""

from __future__ import annotations

import signal

import pytest

from tests.reliability.harness.blows import Blow, Plan
from tests.reliability.harness.outcome import DRAINED, STOPPED
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.workload import PIPELINES, Workload
from tests.series import few


@pytest.mark.parametrize("pipelines", few([("logs",), PIPELINES], 1), ids=["logs", "all"])
def test_drained_and_resumed(lab: Lab, pipelines: tuple[str, ...]) -> None:
    """At a place and at a moment; what the ledger counts is all that was delivered."""
    blows = (Blow("batch_read:12:TERM"), Blow(after=0.2, signal=signal.SIGTERM))

    outcome = lab.trial(Plan("drain", Workload(pipelines, records=6_000), blows))

    assert outcome.problems == []
    assert outcome.codes[0] == DRAINED
    assert outcome.codes[-1] == 0


@pytest.mark.series
def test_stopped_by_the_second_signal_and_resumed(lab: Lab) -> None:
    blow = Blow("batch_read:2:TERM,packed:3:TERM")

    outcome = lab.trial(Plan("stop", Workload(PIPELINES[-1:]), (blow,)))

    assert outcome.problems == []
    assert outcome.codes in ([STOPPED, 0], [DRAINED, 0])


@pytest.mark.series
def test_stopped_by_the_second_signal_while_nothing_can_be_delivered(lab: Lab) -> None:
    """The service stands still with requests in its hands, and carries them out when it continues."""
    blow = Blow(after=0.0, signal=signal.SIGTERM, again=0.1, frozen=True)

    outcome = lab.trial(Plan("frozen", Workload(("blobs",), records=40_000), (blow,)))

    assert outcome.problems == []
    # on a loaded machine the first signal may come before the process listens
    assert outcome.codes in ([STOPPED, 0], [-signal.SIGTERM, 0])
