"""Nothing lost, nothing twice on Temporal: a short form of the series of durable runs.

Workers, service and server are processes of their own. The long form is `python -m tests.reliability`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.reliability.harness.drawing import ANY_MOMENT
from tests.reliability.harness.durable import ROUND, DurableLab
from tests.reliability.harness.durable_plans import (
    AWAY,
    CALLS,
    NOTICED,
    PLANNING,
    WORKER_PLACES,
    Setting,
    WorkerKill,
    WorkerKills,
    drawn_worker_kills,
    equal_setting,
)
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.workload import PIPELINES, Workload
from tests.series import few
from tests.servers.postgres import Postgres
from tests.servers.temporal import DevServer, running

DOCUMENTS = PIPELINES[-1:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """This one is not killed."""
    with running(tmp_path_factory.mktemp("durable")) as started:
        yield started


def no_database() -> Postgres:
    raise AssertionError("no trial here wants a database")


@pytest.mark.series
def test_two_workers_match_one_local_process(lab: Lab, server: DevServer) -> None:
    outcome = DurableLab(lab, server, no_database).equal(equal_setting(1, 0, ("logs", *DOCUMENTS)), 2)

    assert outcome.problems == []
    assert len(outcome.struck) == 2
    assert outcome.records_redone == outcome.handed_back == 0


@pytest.mark.parametrize("killed", few([1, 3], 1))
def test_workers_killed_during_their_chunks(lab: Lab, server: DevServer, killed: int) -> None:
    """One after another, while another has its hands full and then takes over what they had."""
    random = Random("short/durable/1")
    workload = Workload(DOCUMENTS, documents=4, calls=CALLS)
    places = random.sample(["batch_read", "model_paid", "batch_written"], killed)
    kills = tuple(WorkerKill(f"{place}:{random.randint(1, 2)}") for place in places)
    setting = Setting("short kills", workload, heartbeat=NOTICED)

    outcome = DurableLab(lab, server, no_database).worker_kills(WorkerKills(setting, kills))

    assert outcome.problems == []
    assert outcome.struck == places, outcome.notes
    assert outcome.most_attempts > 1, "what a dead worker had was begun again"


@pytest.mark.series
def test_rolling_worker_restarts_use_up_no_attempt(lab: Lab, server: DevServer, postgres: Postgres) -> None:
    """They share nothing but a database, and hand back what they have begun."""
    workload = Workload(("logs",), records=2_000, page=20)
    setting = Setting("short rolling", workload, chunk_splits=5, database=True)

    outcome = DurableLab(lab, server, lambda: postgres).rolling(setting, 1)

    assert outcome.problems == []
    assert outcome.struck == [ROUND]


@pytest.mark.series
def test_server_killed_and_restarted_during_a_run(lab: Lab, tmp_path: Path) -> None:
    """What workers have begun they finish without it, and tell it when it is back."""
    away = AWAY[1]
    setting = Setting("short server", Workload(("events",), records=4_000, page=100))
    with running(tmp_path, database=True) as server:
        durable = DurableLab(lab, server, no_database)
        outcome = durable.server_killed(setting, away, Random(1))

    assert outcome.problems == []
    assert outcome.struck == [away]


@pytest.mark.slow
def test_drawn_kills_reach_every_place() -> None:
    plans = [drawn_worker_kills(1, number) for number in range(24)]
    places = {kill.place for plan in plans for kill in plan.kills}

    assert places == {*WORKER_PLACES, *PLANNING, ANY_MOMENT}
    assert plans == [drawn_worker_kills(1, number) for number in range(24)]
    assert plans != [drawn_worker_kills(2, number) for number in range(24)]
    assert {name for plan in plans for name in plan.setting.workload.pipelines} == set(PIPELINES)
    # alone, the first one is sure to be the one that lists
    assert all(plan.beside is not any(kill.place in PLANNING for kill in plan.kills) for plan in plans)
