"""A process that stores many answers concurrently, without end, and prints each stored one.

Usage: answering_child.py WHERE FIRST. WHERE is as `open_store` takes it; answers are numbered from FIRST.
"""

from __future__ import annotations

import sys
from itertools import count

import anyio

from engine.contract.clock import SystemClock
from engine.contract.journal import JournalEntry
from engine.execution.journal import Journal
from engine.state import open_store

AT_ONCE = 12


async def main(where: str, first: int) -> None:
    numbers = count(first)
    async with open_store(where) as store, anyio.create_task_group() as group:
        node = Journal(store, SystemClock()).of_node("memos", "extract", "r1")

        async def answer() -> None:
            for number in numbers:
                keys = [f"{number}/{part}" for part in "abc"]
                async with node.claim(keys) as claim:
                    await claim.keep([JournalEntry(key, f"answer {key}") for key in keys])
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()

        for _ in range(AT_ONCE):
            group.start_soon(answer)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
