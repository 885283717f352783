"""The verdict names lost, duplicate or altered records, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.reliability.harness.evidence import EngineState, Evidence, LedgerRun, ServiceRecords, stable
from tests.reliability.harness.forecast import expected
from tests.reliability.harness.outcome import PaidSoFar
from tests.reliability.harness.verdict import differences, left_in_flight, paid_twice
from tests.reliability.harness.workload import Workload

WORKLOAD = Workload(("blobs",), records=200, fail_percentage=2)
NOTHING = Evidence(ServiceRecords({}, []), [], [])


def sound() -> Evidence:
    """What a run leaves that lost and doubled nothing: made from the forecast itself."""
    tally = {"read": 200, "written": 196, "dead": 4, "dropped": 0}
    run = LedgerRun("r", "blobs", "s", "2026-01-01T00:00:00.000Z", "completed", 1, tally, True)
    wanted = expected(WORKLOAD, {"blobs": run}, NOTHING)
    rows = [{**row, "transform_timestamp": "now"} for row in wanted.tables["Blob"].values()]
    copies = [{**copy, "failed_at": "now"} for copy in wanted.service_letters.values()]
    letters = [{**letter, "attempts": 2} for letter in wanted.engine_letters.values()]
    return Evidence(ServiceRecords({"Blob": rows}, copies), [run], letters, {"Blob": (196, 196)})


@pytest.mark.slow
def test_a_sound_run_has_no_differences() -> None:
    found = sound()

    assert (len(found.service.tables["Blob"]), len(found.service.letters), len(found.letters)) == (196, 4, 4)
    assert differences(WORKLOAD, found, NOTHING) == []


def lost_row(found: Evidence) -> Evidence:
    del found.service.tables["Blob"][7]
    return found


def doubled_row(found: Evidence) -> Evidence:
    found.service.tables["Blob"].append(dict(found.service.tables["Blob"][7]))
    return found


def altered_row(found: Evidence) -> Evidence:
    found.service.tables["Blob"][7]["file_size"] = -1
    return found


def foreign_row(found: Evidence) -> Evidence:
    found.service.tables["Blob"].append({"id": "nobody's"})
    return found


def doubled_below_the_view(found: Evidence) -> Evidence:
    return replace(found, raw={"Blob": (197, 196)})


def lost_copy(found: Evidence) -> Evidence:
    del found.service.letters[0]
    return found


def lost_letter(found: Evidence) -> Evidence:
    del found.letters[0]
    return found


def letter_of_another_error(found: Evidence) -> Evidence:
    found.letters[0]["error_type"] = "Other"
    return found


def unbalanced(found: Evidence) -> Evidence:
    return replace(found, runs=[replace(found.runs[0], balanced=False)])


def counted_twice(found: Evidence) -> Evidence:
    return replace(found, runs=[replace(found.runs[0], tally={**found.runs[0].tally, "read": 201})])


def unfinished(found: Evidence) -> Evidence:
    return replace(found, runs=[replace(found.runs[0], status="running")])


def begun_twice(found: Evidence) -> Evidence:
    return replace(found, runs=[*found.runs, replace(found.runs[0], run_id="other")])


def never_begun(found: Evidence) -> Evidence:
    return replace(found, runs=[])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lost_row, ["table Blob", "1 lost"]),
        (doubled_row, ["table Blob", "1 doubled"]),
        (altered_row, ["table Blob", "1 altered", "file_size is '-1'"]),
        (foreign_row, ["table Blob", "1 too many", "nobody's"]),
        (doubled_below_the_view, ["197 rows of 196 ids"]),
        (lost_copy, ["dead letters of the service", "1 lost"]),
        (lost_letter, ["dead letters of the engine", "1 lost"]),
        (letter_of_another_error, ["dead letters of the engine", "error_type is 'Other'"]),
        (unbalanced, ["does not add up"]),
        (counted_twice, ["read is 201, undisturbed it is 200"]),
        (unfinished, ["running instead of completed"]),
        (begun_twice, ["2 runs instead of one"]),
        (never_begun, ["never run: blobs"]),
    ],
)
def test_every_harm_is_named(harm: Callable[[Evidence], Evidence], words: list[str]) -> None:
    problems = differences(WORKLOAD, harm(sound()), NOTHING)

    assert len(problems) == 1
    assert all(word in problems[0] for word in words), problems


def test_what_differs_from_run_to_run_does_not_count() -> None:
    forwarded = '{"error": {"type": "T", "attempts": 3}, "record": {"processed_at": "now"}}'
    value = {"id": 1, "attempts": 2, "inner": [{"failed_at": "now", "kept": 3}], "extracted_data": forwarded}

    assert stable(value) == {
        "id": 1,
        "inner": [{"kept": 3}],
        "extracted_data": {"error": {"type": "T"}, "record": {}},
    }


def drained(**changes: object) -> EngineState:
    found = sound()
    run = replace(found.runs[0], status="interrupted", tally={**found.runs[0].tally, **changes})
    return EngineState([run], found.letters)


def drained_run(**changes: Any) -> EngineState:
    state = drained()
    return replace(state, runs=[replace(state.runs[0], **changes)])


@pytest.mark.slow
def test_a_drained_run_has_delivered_what_its_ledger_counts() -> None:
    assert left_in_flight(drained(), sound().service) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: drained(written=195), "196 rows in Blob, the ledger counts 195"),
        (lambda: drained(dead=5), "4 dead letters, the ledger counts 5"),
        (lambda: drained_run(balanced=False), "not everything"),
        (lambda: drained_run(status="running"), "running instead"),
    ],
)
def test_what_a_drain_leaves_in_flight_is_named(state: Callable[[], EngineState], words: str) -> None:
    problems = left_in_flight(state(), sound().service)

    assert len(problems) == 1
    assert words in problems[0]


START = PaidSoFar(100, 0)


@pytest.mark.parametrize(
    ("marks", "again"),
    [
        ([START, PaidSoFar(156, 56)], 0),
        ([START, PaidSoFar(157, 56)], 1),
        ([START, PaidSoFar(130, 10, interrupted=True), PaidSoFar(176, 56)], 0),
        ([START, PaidSoFar(130, 10, interrupted=True), PaidSoFar(177, 56)], 1),
        ([START, PaidSoFar(143, 10, interrupted=True), PaidSoFar(189, 56)], 1),
    ],
    ids=["undisturbed", "twice", "in flight at a kill", "journaled at a kill", "more than in flight"],
)
def test_answers_in_the_journal_are_not_paid_for_again(marks: list[PaidSoFar], again: int) -> None:
    problems = paid_twice(marks, in_flight=32, damaged=0)

    assert [problem.split()[0] for problem in problems] == [str(again)] * bool(again)
    assert paid_twice(marks, in_flight=32, damaged=1) == []
