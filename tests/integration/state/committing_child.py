"""A process that commits progress endlessly, or a number of times, and reports each commit.

Usage: committing_child.py WHERE RUN_ID COMMITS (0: no end). WHERE is as `open_store` takes it. Begins when
a line arrives on stdin, and continues where the store says the run is; ends in good order on SIGTERM. Each
commit moves three splits at once, and puts one dead letter.
"""

from __future__ import annotations

import signal
import sys
from itertools import count

import anyio

from engine.contract.acks import Tally
from engine.contract.dead_letter import DeadLetter
from engine.contract.split import Split
from engine.errors import RunNotFoundError
from engine.state import Progress, RunRecord, StateStore, open_store

SPLITS = ("a", "b", "c")


def report(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def prepare(store: StateStore, run_id: str) -> int:
    """Create the run if it does not exist; return its position."""
    try:
        await store.get_run(run_id)
    except RunNotFoundError:
        await store.create_run(RunRecord(run_id, "blobs", "g", "i", {}, {}, {}, "s", "2026-11-23T08:00:00Z"))
        await store.add_splits(run_id, "extract", [Split(key) for key in SPLITS], complete=True)
    records, _ = await store.splits(run_id, "extract")
    return int(records[0].position or 0)


async def main(where: str, run_id: str, commits: int) -> None:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    report("ready")
    await anyio.to_thread.run_sync(sys.stdin.readline)
    async with open_store(where) as store:
        start = await prepare(store, run_id)
        for number in range(start + 1, start + commits + 1) if commits else count(start + 1):
            tally = Tally(read=number, written=number)
            await store.commit(run_id, [Progress("extract", split, number, False, tally) for split in SPLITS])
            await store.put_dead_letters(
                [DeadLetter(run_id, "blobs", "load", "same", "write", "ValueError", "no", {"n": number})]
            )
            report(number)
            if told:
                break


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
