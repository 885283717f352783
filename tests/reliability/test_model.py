"""The engine against a naive model, with events in any order; the long form is a separate command."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from tests.reliability.model.bugs import BUGS
from tests.reliability.model.machine import SHORT, DeliveryModel, DeliveryModelOnDisk

# each takes as long as all others together
SLOW = {"tally_outside_the_transaction", "lost_origin_on_rebatch"}
EVENTS = {
    "NodeFailedError",
    "OutageError",
    "batches that an earlier process has settled",
    "commits of batches settled out of order",
    "failed commits",
    "killed",
    "killed at work",
    "killed in a commit",
    "killed while planning",
    "runs finished",
    "stale commits refused",
}


def run_model(model: type[DeliveryModel], **changes: object) -> None:
    """Run the model from a fixed seed, with its events counted from nothing."""
    model.seen.clear()
    run_state_machine_as_test(hypothesis.seed(1)(model), settings=hypothesis.settings(SHORT, **changes))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_engine_holds_against_the_model() -> None:
    run_model(DeliveryModel, max_examples=12)

    assert DeliveryModel.seen["steps"] > 200


@pytest.mark.series
def test_it_holds_whatever_happens() -> None:
    run_model(DeliveryModel)

    assert DeliveryModel.seen["steps"] > 1000
    assert set(DeliveryModel.seen) >= EVENTS, "the steps come by everything that can happen"


@pytest.mark.series
def test_it_holds_with_the_store_on_disk() -> None:
    run_model(DeliveryModelOnDisk, max_examples=8)

    assert DeliveryModelOnDisk.seen["killed in a commit"]
    assert DeliveryModelOnDisk.seen["runs finished"]


@pytest.mark.parametrize(
    "model", [DeliveryModel, pytest.param(DeliveryModelOnDisk, marks=pytest.mark.series)]
)
@pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, marks=pytest.mark.series if bug in SLOW else ()) for bug in BUGS],
)
def test_a_planted_bug_is_found(
    bug: str, model: type[DeliveryModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = BUGS[bug](monkeypatch)

    with pytest.raises(AssertionError, match=found):
        # it ends with the first step that shows it
        run_model(model, max_examples=500, phases=[hypothesis.Phase.generate], report_multiple_bugs=False)
