"""Forecast a large durable run with a small simulator, measured costs and external limits.

    python -m benchmarks.capacity                      # a billion objects, with the defaults below
    python -m benchmarks.capacity --objects 1e6 --workers 8 --llm-tokens-per-minute 2e6
    python -m benchmarks.capacity --check              # the measured small runs, simulated again

The costs of a run and a chunk come from `benchmarks/results/durable_*.json`. `--check` exits with 1 when a
simulated run is more than 20 % away from the measured one. docs/scaling.md explains the model.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from benchmarks import results
from benchmarks.results import Result
from benchmarks.statistics import median

WITHIN = 0.20


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs in seconds.

    Args:
        run: duration of a run with one idle chunk.
        worker: processor time of a worker per chunk.
        server: processor time of the dev server per chunk.
    """

    run: float
    worker: float
    server: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The number of worker processes, and of concurrent chunks per worker."""

    workers: int = 1
    slots: int = 4


def simulate(chunks: int, wait: float, fleet: Fleet, costs: Costs) -> float:
    """Return the seconds of a run whose chunks each wait for `wait` seconds.

    A chunk takes a slot of a worker; then, in turn, the server's processor (dispatch), the worker's
    (processing), the wait, and the server's again (completion). Processors serve one chunk at a time, in the
    order of arrival.
    """
    server_free, worker_free = 0.0, [0.0] * fleet.workers
    # moment, number of the chunk, stage, worker
    queue = [(0.0, number, 0, number % fleet.workers) for number in range(fleet.workers * fleet.slots)]
    left, number, ended = chunks - len(queue), len(queue), 0.0
    queue = queue[:chunks]
    heapq.heapify(queue)
    while queue:
        now, one, stage, worker = heapq.heappop(queue)
        if stage in (0, 3):
            server_free = done = max(now, server_free) + costs.server / 2
        elif stage == 1:
            worker_free[worker] = done = max(now, worker_free[worker]) + costs.worker
        else:
            done = now + wait
        if stage < 3:
            heapq.heappush(queue, (done, one, stage + 1, worker))
            continue
        ended = max(ended, done)
        if left > 0:
            left, number = left - 1, number + 1
            heapq.heappush(queue, (done, number, 0, worker))
    return costs.run + ended


@dataclass(frozen=True, slots=True)
class Demand:
    """A large run and its environment; times in seconds, money in USD. The defaults are examples.

    `split_objects` and `most_chunks` are the engine's, prices those published in 2026.
    """

    objects: float = 1e9
    split_objects: int = 500
    most_chunks: int = 2000
    workers: int = 50
    slots: int = 4
    cpu_per_object: float = 0.0006
    wait_per_object: float = 0.0
    chunk_minutes: float = 24.0
    beat_seconds: float = 30.0
    llm_tokens_per_object: float = 400
    llm_tokens_per_minute: float = 30e6
    llm_usd_per_million_tokens: float = 0.3
    s3_gets_per_second: float = 5500
    s3_usd_per_million_gets: float = 0.4
    rows_per_second: float = 50_000
    actions_per_second: float = 500
    usd_per_million_actions: float = 50


@dataclass(frozen=True, slots=True)
class Limit:
    """Hours that the run would take under this limit alone, and the remedy if it is the binding one."""

    name: str
    hours: float
    remedy: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """The forecast for a run."""

    chunks: float
    attempts: float
    actions: float
    events_per_shard: float
    continued: float
    limits: Sequence[Limit]
    usd_llm: float
    usd_s3: float
    usd_actions: float

    @property
    def binding(self) -> Limit:
        """The limit that binds first."""
        return max(self.limits, key=lambda limit: limit.hours)


EVENTS_PER_CHUNK = 3
"""Scheduled, started, completed; workflow tasks in between are shared by several chunks."""
SUGGESTED_EVENTS = 4096
SHARDS = 4
ACTIONS_OF_A_RUN = 9
"""It is started, compiles, lists, finalizes, and updates its search attributes five times."""
ACTIONS_OF_A_SHARD = 2


def forecast(demand: Demand) -> Forecast:
    """Forecast every limit alone, actions and money."""
    splits = demand.objects / demand.split_objects
    chunks = min(splits, demand.most_chunks)
    busy = demand.objects * (demand.cpu_per_object + demand.wait_per_object / demand.slots)
    seconds = busy / demand.workers
    # a chunk that exceeds its time is handed back and continues as a new attempt
    attempts = max(chunks, busy * demand.slots / (demand.chunk_minutes * 60))
    beats = seconds * demand.workers * demand.slots / demand.beat_seconds
    shards = max(1, min(SHARDS, chunks))
    events = EVENTS_PER_CHUNK * attempts / shards
    continued = events // SUGGESTED_EVENTS
    actions = attempts + beats + shards * (ACTIONS_OF_A_SHARD + continued) + ACTIONS_OF_A_RUN
    tokens = demand.objects * demand.llm_tokens_per_object
    limits = (
        Limit("workers' processors", seconds / 3600, "more workers"),
        Limit(
            "model quota",
            tokens / demand.llm_tokens_per_minute / 60 if tokens else 0.0,
            "a larger quota, a second provider on a queue of its own, fewer tokens an object",
        ),
        Limit(
            "S3 GETs of one prefix",
            demand.objects / demand.s3_gets_per_second / 3600,
            "spread the objects over more prefixes",
        ),
        Limit(
            "warehouse",
            demand.objects / demand.rows_per_second / 3600,
            "a warehouse with more than one writer in place of the embedded one",
        ),
        Limit(
            "Temporal actions", actions / demand.actions_per_second / 3600, "larger chunks, rarer heartbeats"
        ),
    )
    return Forecast(
        chunks,
        attempts,
        actions,
        events,
        continued,
        limits,
        tokens / 1e6 * demand.llm_usd_per_million_tokens,
        demand.objects / 1e6 * demand.s3_usd_per_million_gets,
        actions / 1e6 * demand.usd_per_million_actions,
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured run and its simulation, in seconds."""

    name: str
    measured: float
    simulated: float

    @property
    def off(self) -> float:
        """The relative error of the simulation."""
        return self.simulated / self.measured - 1


def measured_costs(directory: Path = results.DIRECTORY) -> Costs:
    """Return the costs of a run and a chunk, from the stored results.

    Raises:
        FileNotFoundError: `python -m benchmarks run durable` has not been run.
    """
    (found,) = results.load(directory / "durable_overhead.json")
    one, many, chunks = _overhead_arms(found)

    def each(figure: str) -> float:
        return (_median(found, many, figure) - _median(found, one, figure)) / (chunks - 1)

    return Costs(_median(found, one, "run"), max(0.0, each("worker_cpu")), max(0.0, each("server_cpu")))


def compared(directory: Path = results.DIRECTORY) -> Iterator[Comparison]:
    """Simulate the stored runs again."""
    costs = measured_costs(directory)
    (overhead,) = results.load(directory / "durable_overhead.json")
    _, many, chunks = _overhead_arms(overhead)
    yield Comparison(many, _median(overhead, many, "run"), simulate(chunks, 0.0, Fleet(), costs))
    (found,) = results.load(directory / "durable_workers.json")
    chunks = int(found.description.split()[0])
    for name, workers in (("one worker", 1), ("two workers", 2)):
        simulated = simulate(chunks, 0.5, Fleet(workers), costs)
        yield Comparison(f"{chunks} waiting chunks, {name}", _median(found, name, "run"), simulated)


def _overhead_arms(result: Result) -> tuple[str, str, int]:
    one, many = sorted((arm for arm in result.arms if arm != "control"), key=lambda arm: int(arm.split()[0]))
    return one, many, int(many.split()[0])


def _median(result: Result, arm: str, figure: str) -> float:
    return median(list(result.by_round(arm, figure).values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a forecast, or the comparison; return 1 if a simulation is too far off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="simulate the measured runs again")
    for one in fields(Demand):
        option = f"--{one.name.replace('_', '-')}"
        parser.add_argument(option, type=float, default=one.default, metavar="N", help=f"({one.default:g})")
    options = vars(parser.parse_args(argv))
    if options.pop("check"):
        return _check()
    _print(forecast(Demand(**options)))
    return 0


def _check() -> int:
    costs = measured_costs()
    each = f"{costs.worker * 1e3:.1f} ms of a worker, {costs.server * 1e3:.1f} ms of the server"
    print(f"a run {costs.run:.3f} s; a chunk {each}")
    worst = 0.0
    for one in compared():
        print(f"{one.name}: measured {one.measured:.2f} s, simulated {one.simulated:.2f} s ({one.off:+.0%})")
        worst = max(worst, abs(one.off))
    return int(worst > WITHIN)


def _print(found: Forecast) -> None:
    print(f"chunks {found.chunks:,.0f}, attempts at them {found.attempts:,.0f}, actions {found.actions:,.0f}")
    print(f"events a shard {found.events_per_shard:,.0f}, continued as new {found.continued:,.0f} times")
    for limit in sorted(found.limits, key=lambda limit: -limit.hours):
        print(f"  {limit.name}: {limit.hours:,.1f} h alone")
    print(f"{found.binding.name} binds first: {found.binding.remedy}")
    print(f"USD: model {found.usd_llm:,.0f}, S3 {found.usd_s3:,.0f}, Temporal {found.usd_actions:,.2f}")


if __name__ == "__main__":
    sys.exit(main())
