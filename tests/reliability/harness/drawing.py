"""Draw trials from a seed: what runs, and where and when faults are injected.

The places come from decks: every place is dealt once before any comes again, so that a series is spread
over all of them however the dice fall. A trial is fixed by its seed and number.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random
from typing import TypeVar

from tests.reliability.harness.blows import Blow, Plan, ServiceKill
from tests.reliability.harness.proxy import Faults
from tests.reliability.harness.workload import PIPELINES, SIMULATED, Workload

__all__ = [
    "ANY_MOMENT",
    "DOCUMENT_PLACES",
    "PLACES",
    "SERVICE_PLACES",
    "dealt",
    "drawn_both",
    "drawn_drains",
    "drawn_kills",
    "drawn_service",
    "drawn_service_kills",
    "drawn_wires",
]

T = TypeVar("T")

ANY_MOMENT = "any moment"
DRAINING = "draining"
COMPACTING = "tables_compacting"

PLACES: Mapping[str, tuple[int, int]] = {
    "splits_listed": (1, 1),
    "splits_stored": (1, 1),
    "batch_read": (10, 6),
    "packed": (0, 15),
    "model_paid": (0, 15),
    "batch_written": (10, 16),
    "ledger_committing": (3, 4),
    "ledger_committed": (3, 4),
    "dead_letter_stored": (10, 4),
    "dead_letter_forwarded": (0, 4),
    DRAINING: (1, 1),
    "books_closed": (1, 1),
}
"""How often a first attempt comes by each place: in a simulated pipeline, in that of the documents."""

DOCUMENT_PLACES = tuple(name for name, (simulated, _) in PLACES.items() if not simulated)
SERVICE_PLACES: Mapping[str, int] = {
    "request_accepted": 12,
    "rows_committing": 6,
    "rows_committed": 6,
    COMPACTING: 1,
}
"""Up to which time each place of the service is struck at."""

ANYTHING = (PIPELINES, PIPELINES, SIMULATED, ("blobs",), ("logs",), ("events",), PIPELINES[-1:])
DOCUMENTS = (PIPELINES, PIPELINES[-1:])


def drawn_kills(seed: int, number: int) -> Plan:
    """SIGKILL to the engine, once to three times, at places and at any moment."""
    random = Random(f"kills/{seed}/{number}")
    cards = dealt(f"kills/{seed}", [*PLACES, DRAINING, *[ANY_MOMENT] * 3], number, (1, 2, 3))
    workload = _workload(random, seed * 1000 + number, cards)
    blows = tuple(_blow(random, card, workload, late=bool(place)) for place, card in enumerate(cards))
    return Plan(f"kills {seed}/{number}", workload, blows)


def drawn_service(seed: int, number: int) -> Plan:
    """SIGKILL to the service under an engine that nothing else happens to, three times."""
    random = Random(f"service/{seed}/{number}")
    name = random.choice(("many", "all", "one"))
    large = {
        "many": Workload(SIMULATED, records=12_000),
        "all": Workload(records=8_000),
        "one": Workload((random.choice(SIMULATED),), records=30_000),
    }
    return Plan(f"service {seed}/{number}", large[name], (), drawn_service_kills("service", seed, number, 3))


def drawn_both(seed: int, number: int) -> Plan:
    """SIGKILL to the engine and to the service, in the same moment or each in its own."""
    random = Random(f"both/{seed}/{number}")
    together = random.random() < 0.4
    cards = dealt(f"both/{seed}", [*PLACES, ANY_MOMENT, ANY_MOMENT], number, (1,))
    workload = _workload(random, seed * 1000 + number, () if together else cards, records=4_000)
    kills = drawn_service_kills("both", seed, number, 1, takes_engine=together)
    # one that dies with the service has to live until then
    blows = () if together else tuple(_blow(random, card, workload, late=False) for card in cards)
    return Plan(f"both {seed}/{number}", workload, blows, kills)


def drawn_drains(seed: int, number: int) -> Plan:
    """SIGTERM, or two of them; with two, half of the time nothing can be delivered meanwhile."""
    random = Random(f"drains/{seed}/{number}")
    workload = _workload(random, seed * 1000 + number, (), records=20_000)
    form = number % 4
    if form == 3:
        frozen = number % 8 == 7
        blow = Blow(
            after=_moment_of_a_run(random, workload),
            signal=signal.SIGTERM,
            again=random.uniform(0.0, 0.5),
            frozen=frozen,
        )
        return Plan(f"drains {seed}/{number}", workload, (blow,))
    if form == 2:
        first = random.randint(1, _times("batch_read", workload))
        return Plan(f"drains {seed}/{number}", workload, (Blow(f"batch_read:{first}:TERM"),))
    moments = [_moment_of_a_run(random, workload) for _ in range(2)]
    return Plan(
        f"drains {seed}/{number}",
        workload,
        tuple(Blow(after=moment, signal=signal.SIGTERM) for moment in moments),
    )


def drawn_wires(seed: int, number: int, *, records: int, probability: float = 0.01) -> Plan:
    """All wires faulty at once, nothing killed; the sizes make some thousand exchanges."""
    workload = Workload(records=records, page=max(5, records // 100), documents=8)
    wires = {
        name: Faults(probability, seed=f"{seed}/{number}/{name}") for name in ("service", "model", "lake")
    }
    return Plan(f"wires {seed}/{number}", workload, wires=wires)


def drawn_service_kills(
    series: str, seed: int, number: int, count: int, *, takes_engine: bool = False, busy: int = 1
) -> tuple[ServiceKill, ...]:
    """Kills of the service for one trial: places from a deck, or any moment.

    Compaction is struck at while the service comes up, so it is never the first.

    Args:
        busy: how many times more often than under a run the service comes by its places.
    """
    random = Random(f"{series}/service/{seed}/{number}")
    deck = [*SERVICE_PLACES, ANY_MOMENT, ANY_MOMENT]
    cards = dealt(f"{series}/service/{seed}", deck, number, (count,))
    if cards[0] == COMPACTING:
        cards = [*cards[1:], cards[0]] if count > 1 else ["rows_committed"]
    return tuple(
        ServiceKill(
            point="" if card == ANY_MOMENT else f"{card}:{_service_count(random, card, busy)}",
            after=random.uniform(0.0, 0.6) if card == ANY_MOMENT else 0.0,
            down=random.uniform(0.0, 1.0),
            takes_engine=takes_engine,
        )
        for card in cards
    )


def _service_count(random: Random, place: str, busy: int) -> int:
    return 1 if place == COMPACTING else random.randint(1, SERVICE_PLACES[place] * busy)


def dealt(seed: str, deck: Sequence[T], number: int, sizes: Sequence[int]) -> list[T]:
    """The hand of this number from decks shuffled by seed; hands are of these sizes in turn."""
    before = sum(sizes[index % len(sizes)] for index in range(number))
    return list(islice(_cards(seed, deck), before, before + sizes[number % len(sizes)]))


def _cards(seed: str, deck: Sequence[T]) -> Iterator[T]:
    random = Random(seed)
    while True:
        yield from random.sample(deck, len(deck))


def _workload(random: Random, own_seed: int, places: Sequence[str], records: int = 2_000) -> Workload:
    choice = DOCUMENTS if set(places) & set(DOCUMENT_PLACES) else ANYTHING
    return Workload(random.choice(choice), records=records, seed=own_seed if random.random() < 0.25 else None)


def _blow(random: Random, place: str, workload: Workload, *, late: bool) -> Blow:
    """A blow at a place. A late one finds a part of the work done, so it comes early in what is left."""
    if place == ANY_MOMENT:
        return Blow(after=_moment(random, workload))
    if place == DRAINING:
        return _struck_while_draining(random, workload, late=late)
    return Blow(f"{place}:{_count(random, place, workload, late=late)}")


def _struck_while_draining(random: Random, workload: Workload, *, late: bool) -> Blow:
    first = _count(random, "batch_read", workload, late=late)
    if random.random() < 0.7:
        return Blow(f"batch_read:{first}:TERM,draining:{random.randint(1, len(workload.pipelines))}")
    name = random.choice(("batch_written", "ledger_committing", "dead_letter_stored", "books_closed"))
    return Blow(f"batch_read:{first}:TERM,{name}:{_count(random, name, workload, late=True)}")


def _count(random: Random, place: str, workload: Workload, *, late: bool) -> int:
    times = _times(place, workload)
    return random.randint(1, max(1, times // 4 if late else times))


def _times(place: str, workload: Workload) -> int:
    simulated, documents = PLACES[place]
    return sum(simulated if name in SIMULATED else documents for name in workload.pipelines)


def _moment(random: Random, workload: Workload) -> float:
    """Between the first and the last moments of an undisturbed process."""
    longest = 2.0 if PIPELINES[-1] in workload.pipelines else 0.7 + 0.1 * len(workload.pipelines)
    return random.uniform(0.1, longest)


def _moment_of_a_run(random: Random, workload: Workload) -> float:
    """The same of its runs alone."""
    longest = 1.2 if PIPELINES[-1] in workload.pipelines else 0.15 + 0.15 * len(workload.pipelines)
    return random.uniform(0.0, longest)
