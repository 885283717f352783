"""The short form: kills drawn from a seed that always strike, on machines of any speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from tests.reliability.harness.blows import Blow, Plan
from tests.reliability.harness.drawing import DOCUMENT_PLACES
from tests.reliability.harness.workload import PIPELINES, SIMULATED, Workload

__all__ = ["short_kills"]

PLANNING = ("splits_listed", "splits_stored")
UNDER_WAY: Mapping[str, int] = {
    "batch_read": 3,
    "packed": 2,
    "model_paid": 2,
    "batch_written": 3,
    "ledger_committing": 1,
    "dead_letter_stored": 1,
    "dead_letter_forwarded": 1,
    "draining": 1,
}
"""Up to which time each place is struck at: so early that all attempts together leave batches to be read."""
ENDING = ("ledger_committed", "books_closed")
"""A commit may cover all that there is, so these come last."""

WORKLOADS: Sequence[tuple[str, ...]] = (("blobs",), ("logs", "events"), SIMULATED, PIPELINES[-1:])


def short_kills(seed: int) -> list[Plan]:
    """Over all four pipelines, each trial struck once at each place that its pipelines come by."""
    return [_plan(seed, number, pipelines) for number, pipelines in enumerate(WORKLOADS)]


def _plan(seed: int, number: int, pipelines: tuple[str, ...]) -> Plan:
    random = Random(f"short/{seed}/{number}")
    # keys that are given may have been delivered before; those that the run draws cannot
    # finely cut: a slow machine commits by time before a kill, and something must be left for the last place
    workload = Workload(pipelines, records=4_000, seed=seed if number % 2 else None, page=100, documents=4)
    with_documents = PIPELINES[-1] in pipelines
    under_way = [place for place in UNDER_WAY if with_documents or place not in DOCUMENT_PLACES]
    places = [*PLANNING, *random.sample(under_way, len(under_way)), *ENDING]
    return Plan(f"short {seed}/{number}", workload, tuple(_blow(random, place) for place in places))


def _blow(random: Random, place: str) -> Blow:
    count = random.randint(1, UNDER_WAY.get(place, 1))
    if place == "draining":
        return Blow(f"batch_read:{random.randint(1, UNDER_WAY['batch_read'])}:TERM,draining:1")
    return Blow(f"{place}:{count}")
