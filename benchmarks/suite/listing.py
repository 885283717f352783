"""A million objects in a bucket: the memory that listing them takes, and the actions that their run takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks import figures
from benchmarks.actions import actions_of
from benchmarks.capacity import Demand, forecast
from benchmarks.durable_runs import durable_run, needs_temporal
from benchmarks.machine import ROOT
from benchmarks.model import Arm, Benchmark, Command, Completed, Goal, Launch, Scale, Work

LISTING = ROOT / "benchmarks" / "listing.yaml"
SPLIT_OBJECTS = 500
MEGABYTE = 1_000_000
LIBRARIES = ("temporalio", "orjson")


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``listing_memory`` and ``listing_actions``."""
    return [_memory(scale), _actions(scale)]


def _memory(scale: Scale) -> Benchmark:
    sizes = (scale.pick(100_000, 2_000), scale.pick(1_000_000, 20_000))
    flat = Goal("difference", "<=", 8 * MEGABYTE)
    return Benchmark(
        name="listing_memory",
        description=f"a worker that lists {sizes[0]:,} and {sizes[1]:,} objects into a state directory",
        arms=[
            Arm(f"{size:,} objects", command=_list(size), goals=[flat] if size == sizes[1] else [])
            for size in sizes
        ],
        reference=f"{sizes[0]:,} objects",
        unit="objects",
        metric=figures.OWN_PEAK_RSS,
        comparison="difference",
        pairs=3,
        libraries=LIBRARIES,
    )


def _list(objects: int) -> Command:
    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        def work(done: Completed) -> Work:
            splits = int(done.stdout)
            if splits != -(-objects // 1000):
                raise ValueError(f"{splits} splits of {objects} objects")
            return Work(objects, "all objects listed")

        state = directory / "state"
        yield Launch(
            argv=[sys.executable, "-m", "benchmarks.listing", str(objects), str(state)], work=work, cwd=ROOT
        )

    return prepare


def _actions(scale: Scale) -> Benchmark:
    sizes = (scale.pick(100_000, 2_000), scale.pick(1_000_000, 10_000))
    bound = Goal(figures.ACTIONS, "<=", 20_000)
    return Benchmark(
        name="listing_actions",
        description=f"actions on Temporal of runs over {sizes[0]:,} and {sizes[1]:,} objects, in idle chunks",
        arms=[
            Arm(
                f"{size:,} objects",
                command=_counted(size),
                goals=[bound, Goal(figures.OFF, "<=", 0.1)],
                unavailable=needs_temporal,
            )
            for size in sizes
        ],
        reference=f"{sizes[0]:,} objects",
        unit="objects",
        metric=figures.ACTIONS,
        comparison="difference",
        pairs=1,
        libraries=LIBRARIES,
    )


def _counted(objects: int) -> Command:
    """A durable run; ``actions`` are in its histories, ``off`` says how far the ``forecast`` is away."""
    params = {"objects": objects, "split_objects": SPLIT_OBJECTS}
    expected = forecast(
        Demand(objects=objects, split_objects=SPLIT_OBJECTS, workers=1, cpu_per_object=0)
    ).actions

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        with durable_run(LISTING, "listing", params, objects)(directory) as launch:

            def work(done: Completed) -> Work:
                name = done.stdout.decode().partition(" as workflow ")[2].split()[0]
                counted = asyncio.run(_count(launch.env["TEMPORAL_ADDRESS"], name))
                found = {
                    figures.ACTIONS: counted,
                    figures.FORECAST: expected,
                    figures.OFF: abs(expected / counted - 1),
                }
                said = launch.work(done)
                return Work(objects, said.checksum, {**said.figures, **found})

            yield replace(launch, work=work)

    return prepare


async def _count(address: str, workflow_id: str) -> int:
    from temporalio.client import Client

    return await actions_of(await Client.connect(address), workflow_id)
