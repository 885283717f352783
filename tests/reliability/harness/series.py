"""The series of the long form: their faults, sizes and counting rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from tests.reliability.harness.blows import Plan
from tests.reliability.harness.clients import ClientsPlan, clients_trial
from tests.reliability.harness.drawing import (
    ANY_MOMENT,
    PLACES,
    SERVICE_PLACES,
    drawn_both,
    drawn_drains,
    drawn_kills,
    drawn_service,
    drawn_service_kills,
    drawn_wires,
)
from tests.reliability.harness.durable import ROUND, DurableLab, DurableOutcome
from tests.reliability.harness.durable_plans import (
    AWAY,
    PLANNING,
    WORKER_PLACES,
    drawn_worker_kills,
    equal_setting,
    rolling_setting,
    server_setting,
)
from tests.reliability.harness.firing import PLACES as FIRING_PLACES
from tests.reliability.harness.firing import firing_trial
from tests.reliability.harness.outcome import DRAINED, STOPPED, Outcome
from tests.reliability.harness.stops import STOPS, stop_trial
from tests.reliability.harness.trial import Lab, laboratory
from tests.reliability.harness.workload import PIPELINES
from tests.servers.postgres import running as running_postgres
from tests.servers.temporal import running as running_temporal

__all__ = ["SERIES", "Entry", "Series", "Trial"]

Entry: TypeAlias = dict[str, Any]
"""One trial in a result file. `struck` has what counts towards the goal, `problems` what is wrong."""

Trial: TypeAlias = Callable[[int, int], Entry]
"""Runs the trial of a seed and a number."""

DURABLE_DOCUMENTS = 100
WORKERS = (1, 2, 4, 2)  # the last over a database
WIRE_RECORDS = 5_000
CLIENT_KILLS = 5


@dataclass(frozen=True)
class Series:
    """Trials of one kind, until enough has been struck.

    Args:
        title: what is struck, for the table.
        total: how many strikes there have to be.
        least: how many at each of these places.
        open: gives what runs a trial, for as long as the block lasts, with its files in a folder.
    """

    name: str
    title: str
    total: int
    open: Callable[[Path], Any]
    least: Mapping[str, int] = field(default_factory=dict)

    def spread(self, trials: Sequence[Entry]) -> dict[str, int]:
        """Strikes by place."""
        found = Counter(place for trial in trials for place in trial["struck"])
        return {place: found[place] for place in sorted({*found, *self.least})}

    def done(self, trials: Sequence[Entry]) -> bool:
        """Whether there is enough."""
        spread = self.spread(trials)
        return sum(spread.values()) >= self.total and all(
            spread[place] >= least for place, least in self.least.items()
        )


@contextmanager
def _kills(folder: Path) -> Iterator[Trial]:
    with laboratory(folder) as lab:
        yield lambda seed, number: _engine(lab, drawn_kills(seed, number), lambda outcome: outcome.struck)


@contextmanager
def _service(folder: Path) -> Iterator[Trial]:
    with laboratory(folder) as lab:
        yield lambda seed, number: _engine(
            lab, drawn_service(seed, number), lambda outcome: outcome.service_struck
        )


@contextmanager
def _both(folder: Path) -> Iterator[Trial]:
    with laboratory(folder) as lab:
        yield lambda seed, number: _engine(lab, drawn_both(seed, number), _struck_both)


@contextmanager
def _drains(folder: Path) -> Iterator[Trial]:
    with laboratory(folder) as lab:
        yield lambda seed, number: _engine(lab, drawn_drains(seed, number), _drained)


@contextmanager
def _wires(folder: Path) -> Iterator[Trial]:
    with laboratory(folder, documents=WIRE_RECORDS) as lab:
        yield lambda seed, number: _engine(
            lab, drawn_wires(seed, number, records=WIRE_RECORDS), lambda _: [ON_ALL_WIRES]
        )


@contextmanager
def _clients(folder: Path) -> Iterator[Trial]:
    def trial(seed: int, number: int) -> Entry:
        kills = drawn_service_kills("clients", seed, number, CLIENT_KILLS, busy=8)
        plan = ClientsPlan(f"clients {seed}/{number}", kills)
        outcome = asdict(clients_trial(plan, folder / f"{number:03d}"))
        struck = outcome.pop("service_struck")
        return {"name": outcome.pop("name"), "struck": struck, "kills": list(map(str, kills)), **outcome}

    yield trial


@contextmanager
def _stops(folder: Path) -> Iterator[Trial]:
    yield lambda seed, number: asdict(stop_trial(seed, number, folder / f"{number:03d}"))


@contextmanager
def _fires(folder: Path) -> Iterator[Trial]:
    yield lambda seed, number: asdict(firing_trial(seed, number, folder / f"{number:03d}"))


@contextmanager
def _durable(folder: Path) -> Iterator[DurableLab]:
    with (
        laboratory(folder, documents=DURABLE_DOCUMENTS) as lab,
        running_temporal(folder, database=True) as server,
        running_postgres() as postgres,
    ):
        yield DurableLab(lab, server, lambda: postgres)


@contextmanager
def _durable_equal(folder: Path) -> Iterator[Trial]:
    with _durable(folder) as lab:
        yield lambda seed, number: _entry(
            lab.equal(equal_setting(seed, number), WORKERS[number % len(WORKERS)])
        )


@contextmanager
def _durable_kills(folder: Path) -> Iterator[Trial]:
    with _durable(folder) as lab:
        yield lambda seed, number: _entry(lab.worker_kills(drawn_worker_kills(seed, number)))


@contextmanager
def _durable_rolling(folder: Path) -> Iterator[Trial]:
    with _durable(folder) as lab:
        yield lambda seed, number: _entry(lab.rolling(*rolling_setting(seed, number)))


@contextmanager
def _durable_server(folder: Path) -> Iterator[Trial]:
    with _durable(folder) as lab:

        def trial(seed: int, number: int) -> Entry:
            away = AWAY[number % len(AWAY)]
            random = Random(f"durable-server/moment/{seed}/{number}")
            return _entry(lab.server_killed(server_setting(seed, number, away), away, random))

        yield trial


def _entry(outcome: DurableOutcome) -> Entry:
    entry: Entry = asdict(outcome)
    return {name: value for name, value in entry.items() if value or name in ("struck", "problems")}


def _engine(lab: Lab, plan: Plan, count: Callable[[Outcome], list[str]]) -> Entry:
    outcome = lab.trial(plan)
    entry: Entry = {
        "name": plan.name,
        "struck": count(outcome),
        "pipelines": list(plan.workload.pipelines),
        "records": plan.workload.records,
        "attempts": [
            [attempt.blow, attempt.exit_code, attempt.seconds, attempt.after_signal]
            for attempt in outcome.attempts
        ],
        "service": list(map(str, plan.service)),
        "service_struck": outcome.service_struck,
        "exchanges": outcome.exchanges,
        "wire_faults": outcome.wire_faults,
        "documents_paid_again": outcome.paid_again,
        "notes": outcome.notes,
        "problems": outcome.problems,
        "seconds": outcome.seconds,
    }
    return {name: value for name, value in entry.items() if value or name in ("struck", "problems")}


def _struck_both(outcome: Outcome) -> list[str]:
    """One for a trial in which both have died."""
    engine_died = any(attempt.was_killed for attempt in outcome.attempts)
    return [BOTH] if engine_died and outcome.service_struck else []


def _drained(outcome: Outcome) -> list[str]:
    struck = []
    for attempt in outcome.attempts:
        if attempt.exit_code == DRAINED:
            struck.append(DRAINED_BY_TIME if attempt.place == ANY_MOMENT else DRAINED_AT_A_PLACE)
        elif attempt.exit_code == STOPPED:
            struck.append(STOPPED_FROZEN if "stands still" in attempt.blow else STOPPED_AT_ONCE)
    return struck


BOTH = "engine and service"
ON_ALL_WIRES = "1 % on each wire"
DRAINED_BY_TIME = "drained at any moment"
DRAINED_AT_A_PLACE = "drained at a batch"
STOPPED_AT_ONCE = "second signal"
STOPPED_FROZEN = "second signal, service stands still"

SERIES: Mapping[str, Series] = {
    series.name: series
    for series in (
        Series(
            "kills",
            "engine killed at each stage",
            200,
            _kills,
            dict.fromkeys([*PLACES, ANY_MOMENT], 8),
        ),
        Series(
            "service",
            "service killed under a run",
            40,
            _service,
            dict.fromkeys([*SERVICE_PLACES, ANY_MOMENT], 4),
        ),
        Series("both", "engine and service killed", 20, _both),
        Series(
            "clients",
            "service killed under 16 clients",
            40,
            _clients,
            dict.fromkeys([*SERVICE_PLACES, ANY_MOMENT], 4),
        ),
        Series("wires", "three faulty wires, 5,000 of each", 3, _wires),
        Series(
            "drains",
            "SIGTERM, and twice",
            40,
            _drains,
            {DRAINED_BY_TIME: 30, STOPPED_AT_ONCE: 3, STOPPED_FROZEN: 5},
        ),
        Series(
            "stops",
            "budget, dead-letter limit, fatal error",
            40 * len(STOPS),
            _stops,
            dict.fromkeys(STOPS, 40),
        ),
        Series(
            "fires",
            "serve killed under triggers and a schedule",
            40,
            _fires,
            dict.fromkeys(FIRING_PLACES, 10),
        ),
        Series(
            "durable-equal",
            "nothing: 1 to 4 workers beside a process",
            4 * len(PIPELINES),
            _durable_equal,
            {
                f"{name}, {workers}": least
                for name in PIPELINES
                for workers, least in (("1 worker", 1), ("2 workers", 2), ("4 workers", 1))
            },
        ),
        Series(
            "durable-kills",
            "workers killed in a chunk",
            20,
            _durable_kills,
            dict.fromkeys([*PLANNING, *WORKER_PLACES, ANY_MOMENT], 1),
        ),
        Series("durable-rolling", "every worker restarted", 20, _durable_rolling, {ROUND: 20}),
        Series(
            "durable-server",
            "Temporal's server killed under a run",
            8,
            _durable_server,
            dict.fromkeys(AWAY, 1),
        ),
    )
}
