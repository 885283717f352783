"""A process with an endless source of 1 MB records and a stalling sink; prints its memory growth.

Usage: python -m tests.unit.kernel.stalling_child extract|read BUDGET_BYTES
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator

import anyio

from engine.config.model import NodeOptions, Settings
from engine.contract.batch import Batch
from engine.contract.component import Context, NoParams, Source
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record
from engine.execution.engine import Engine
from engine.testing import MemorySink, linear_plan

SIZE = 1_000_000


def made(number: int) -> dict[str, object]:
    return {"n": number, "body": bytes([number % 256]) * SIZE}


class Extracting(Source[NoParams]):
    """Yields one record after the other."""

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        number = 0
        while True:
            yield made(number)
            number += 1


class Reading(Source[NoParams]):
    """Makes batches of its own."""

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        number = 0
        while True:
            yield Batch([made(number)], [str(number)], position=number + 1)
            number += 1


def resident() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


async def main(style: str, budget: int) -> None:
    source = {"extract": Extracting, "read": Reading}[style](NoParams())
    plan = linear_plan(
        source,
        MemorySink(stall=anyio.Event()),
        settings=Settings(memory_bytes=budget),
        options={"n1": NodeOptions(buffer=10_000)},
    )
    async with Engine() as engine:
        async with engine.start(plan) as run:
            before = resident()

            async def stop_when_full() -> None:
                while run.snapshot().waits_for.partition(",")[0] != "memory":  # noqa: ASYNC110 - unannounced
                    await anyio.sleep(0.005)
                await anyio.sleep(0.1)  # time enough to read a hundred megabytes more, if nothing held it
                run.cancel()

            async with anyio.create_task_group() as group:
                group.start_soon(stop_when_full)
                report = await run.wait()
            sys.stdout.write(f"{resident() - before} {report.peak_bytes}\n")


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
