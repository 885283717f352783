"""The ingest service is killed during a run, together with it, and under sixteen clients."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest

from tests.reliability.harness.blows import Plan, ServiceKill
from tests.reliability.harness.clients import ClientsPlan, Promises, clients_trial, promises_broken
from tests.reliability.harness.evidence import ServiceRecords
from tests.reliability.harness.outcome import KILLED
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.workload import PIPELINES, SIMULATED, Workload


@pytest.mark.series
def test_the_service_is_killed_and_comes_back_under_a_run(lab: Lab) -> None:
    kills = (
        ServiceKill("rows_committed:2"),
        ServiceKill("tables_compacting:1", down=0.3),
        ServiceKill("request_accepted:3"),
        ServiceKill("rows_committing:1"),
    )

    outcome = lab.trial(Plan("service", Workload(SIMULATED, records=6_000), (), kills))

    assert outcome.problems == []
    assert outcome.codes == [0], "the run waits for the service and needs no resume"
    assert outcome.service_struck == [kill.place for kill in kills]


@pytest.mark.parametrize(
    "pipelines",
    [
        pytest.param(("blobs",), id="blobs"),
        pytest.param(PIPELINES[-1:], id="documents", marks=pytest.mark.series),
    ],
)
@pytest.mark.series
def test_service_and_engine_are_killed_in_the_same_moment(lab: Lab, pipelines: tuple[str, ...]) -> None:
    kill = ServiceKill("rows_committed:3", takes_engine=True)

    outcome = lab.trial(Plan("both", Workload(pipelines, records=6_000), (), (kill,)))

    assert outcome.problems == []
    assert outcome.codes == [KILLED, 0]
    assert outcome.service_struck == ["rows_committed"]


def test_the_service_is_killed_under_sixteen_clients(tmp_path: Path) -> None:
    kills = (
        ServiceKill("rows_committed:12"),
        ServiceKill("rows_committing:8"),
        ServiceKill("tables_compacting:1"),
        ServiceKill(after=0.2),
        ServiceKill("request_accepted:40"),
    )

    outcome = clients_trial(ClientsPlan("clients", kills, requests=4), tmp_path)

    assert outcome.problems == []
    assert outcome.service_struck == [kill.place for kill in kills]
    assert outcome.redelivered > 0
    assert outcome.duplicates > 0, "what was committed and not answered was known again"


PROMISES = Promises({"Log": {"a": "1", "b": "2"}, "Event": {"e": "3"}}, {"d"})
KEPT = ServiceRecords(
    {
        "Log": [{"id": "a", "message": "1"}, {"id": "b", "message": "2"}],
        "Event": [{"id": "e", "distinct_id": "3"}],
    },
    [{"record_id": "d"}],
)


def lost(found: ServiceRecords) -> None:
    del found.tables["Log"][0]


def doubled(found: ServiceRecords) -> None:
    found.tables["Log"].append(found.tables["Log"][0])


def altered(found: ServiceRecords) -> None:
    found.tables["Event"][0]["distinct_id"] = "2"


def never_promised(found: ServiceRecords) -> None:
    found.tables["Event"].append({"id": "f", "distinct_id": "3"})


def lost_letter(found: ServiceRecords) -> None:
    found.letters.clear()


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lost, "table Log: 1 lost, such as a"),
        (doubled, "table Log: 1 doubled, such as a"),
        (altered, "table Event: 1 altered, such as e"),
        (never_promised, "table Event: 1 too many, such as f"),
        (lost_letter, "dead letters: 1 lost, such as d"),
    ],
)
def test_every_broken_promise_is_named(harm: Callable[[ServiceRecords], None], words: str) -> None:
    found = deepcopy(KEPT)
    assert promises_broken(PROMISES, found) == []

    harm(found)

    assert promises_broken(PROMISES, found) == [words]
