"""A process that sends calls through a gate as fast as the shared quota allows.

Usage: calling_child.py WHERE CALLS. Prints when it began and ended, in seconds since 1970, and how many calls
went out in between.
"""

from __future__ import annotations

import sys
import time

import anyio

from connectors.llm.gate import Gate
from engine.contract.clock import SystemClock
from engine.execution.spending import StoredAllowances
from engine.state import open_store


async def main(where: str, calls: int) -> None:
    clock = SystemClock()
    async with open_store(where) as store:
        gate = Gate(
            clock,
            requests_per_minute=1_200,
            tokens_per_minute=1e9,
            allowances=StoredAllowances(store, clock),
            name="endpoint",
        )
        began = time.time()
        for _ in range(calls):
            async with gate.call(1):
                pass
        print(began, time.time(), calls)  # noqa: T201 - for the parent


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
