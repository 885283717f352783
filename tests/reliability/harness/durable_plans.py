"""Trials of durable runs, drawn from a seed: what runs, and faults of workers or Temporal's server."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from tests.reliability.harness.drawing import ANY_MOMENT, dealt
from tests.reliability.harness.workload import PIPELINES, SIMULATED, Workload

__all__ = [
    "AWAY",
    "CALLS",
    "PLANNING",
    "WORKER_PLACES",
    "Setting",
    "WorkerKill",
    "WorkerKills",
    "drawn_worker_kills",
    "equal_setting",
    "rolling_setting",
    "server_setting",
]

CALLS = 2
"""Calls to the model at once, so that those in flight at a kill are few beside a chunk."""

NOTICED = 40
"""Seconds after which a worker that says nothing is taken for dead, where workers are killed. One that is
alive says something every 30 s, and a busy machine may stand still for the rest."""

PATIENT = 60
"""The same where none is; it is the default."""

WORKER_PLACES = {
    "batch_read": (6, 2),
    "packed": (0, 4),
    "model_paid": (0, 4),
    "batch_written": (6, 3),
    "ledger_committing": (1, 1),
    "ledger_committed": (1, 1),
    "dead_letter_stored": (6, 1),
    "books_closed": (1, 1),
}
"""Up to which time a worker is struck at each place: while it has its first chunks,
of simulated records and of documents."""

PLANNING = ("splits_listed", "splits_stored")
"""Where whoever lists the run can be struck."""

AWAY = ("at work", "finished meanwhile", "a worker killed meanwhile", ANY_MOMENT)
"""What the workers do while the server is away."""


@dataclass(frozen=True)
class Setting:
    """What runs durably, and how.

    Args:
        chunk_splits: splits in a chunk.
        heartbeat: seconds after which a silent worker is taken for dead.
        slots: chunks that a worker has at once.
        database: workers share a PostgreSQL database, and no directory.
    """

    name: str
    workload: Workload
    chunk_splits: int = 1
    heartbeat: int = PATIENT
    slots: int = 2
    database: bool = False

    @property
    def chunk_records(self) -> int:
        """Records in a chunk, at most."""
        workload = self.workload
        simulated = set(SIMULATED) & set(workload.pipelines)
        split = workload.page * 5 if simulated else workload.documents * 2
        return split * self.chunk_splits


@dataclass(frozen=True)
class WorkerKill:
    """SIGKILL to a worker.

    Args:
        point: a fault point with a count; "" strikes by time.
        after: seconds from the moment that it has work.
    """

    point: str = ""
    after: float = 0.0

    @property
    def place(self) -> str:
        """Where it strikes."""
        return self.point.partition(":")[0] or ANY_MOMENT


@dataclass(frozen=True)
class WorkerKills:
    """Workers that are killed one after another.

    Args:
        beside: another worker is there before the first of them, with its hands full until the last is dead.
        again: one more is started after the last; always so when there is none beside.
    """

    setting: Setting
    kills: tuple[WorkerKill, ...]
    beside: bool = True
    again: bool = False


def drawn_worker_kills(seed: int, number: int) -> WorkerKills:
    """Three kills, at places from a deck and at any moment; every third trial with documents.

    In every fourth the first one is while the run is being listed: by whom is certain only if it is alone.
    """
    random = Random(f"durable-kills/{seed}/{number}")
    documents, alone = number % 3 == 2, number % 4 == 1
    pipeline = PIPELINES[-1] if documents else random.choice(SIMULATED)
    workload = Workload(
        (pipeline,),
        records=12_000,
        seed=seed * 1000 + number if number % 2 else None,
        page=100,
        documents=4,
        calls=CALLS,
    )
    setting = Setting(f"durable-kills {seed}/{number}", workload, heartbeat=NOTICED, database=number % 4 == 3)
    deck = [place for place, counts in WORKER_PLACES.items() if counts[documents]]
    earlier = number // 3 if documents else number - (number + 1) // 3
    cards = dealt(f"durable-kills/{seed}/{documents}", [*deck, ANY_MOMENT, ANY_MOMENT], earlier, (3,))
    if alone:
        cards[0] = PLANNING[number // 4 % len(PLANNING)]
    kills = tuple(_worker_kill(random, card, documents=documents) for card in cards)
    return WorkerKills(setting, kills, beside=not alone, again=random.random() < 0.5)


def equal_setting(seed: int, number: int, pipelines: tuple[str, ...] = PIPELINES) -> Setting:
    """Documents are asked about one by one: how they are packed together depends on who meets whom."""
    workload = Workload(pipelines, seed=seed, page=50, documents=2)
    return Setting(f"durable-equal {seed}/{number}", workload, chunk_splits=3, database=number % 4 == 3)


def rolling_setting(seed: int, number: int) -> tuple[Setting, int]:
    """Chunks of so many batches that no stop comes to their end; and how many rounds they are enough for."""
    random = Random(f"durable-rolling/{seed}/{number}")
    documents, database = number % 3 == 1, number % 3 == 2
    workload = Workload(
        PIPELINES[-1:] if documents else (random.choice(SIMULATED),),
        records=24_000,
        seed=seed * 1000 + number,
        page=20,
        documents=2,
        calls=CALLS,
    )
    setting = Setting(f"durable-rolling {seed}/{number}", workload, chunk_splits=8, database=database)
    return setting, 2 if documents else 10


def server_setting(seed: int, number: int, away: str) -> Setting:
    """Any of the pipelines, and soon noticed when a worker is killed as well."""
    random = Random(f"durable-server/{seed}/{number}")
    workload = Workload((random.choice(PIPELINES),), records=6_000, page=100, documents=4, calls=CALLS)
    heartbeat = NOTICED if away == AWAY[2] else PATIENT
    return Setting(f"durable-server {seed}/{number}", workload, heartbeat=heartbeat)


def _worker_kill(random: Random, place: str, *, documents: bool) -> WorkerKill:
    if place == ANY_MOMENT:
        return WorkerKill(after=random.uniform(0.0, 0.5))
    if place in PLANNING:
        return WorkerKill(f"{place}:1")
    return WorkerKill(f"{place}:{random.randint(1, WORKER_PLACES[place][documents])}")
