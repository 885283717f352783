"""Run a benchmark: every arm once per round, in random order, and the reference again as control."""

from __future__ import annotations

import gc
import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

import anyio

from benchmarks import figures
from benchmarks.machine import LIBRARIES, commit, machine, python_build, versions
from benchmarks.model import CONTROL, Arm, Benchmark, InProcess, Work
from benchmarks.process import CommandError, run_command
from benchmarks.results import Result, Sample

Progress = Callable[[str], None]


class ArmError(Exception):
    """An arm that raised, exited with an error or gave no checksum; the message names it."""


class OutOfTimeError(Exception):
    """The time limit of the whole run is reached."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run: ``pairs`` counted rounds (None: as the benchmark says), until ``deadline`` on ``clock``.

    The collector is run before every sample; ``gc_enabled=False`` also turns it off while one is measured.
    """

    pairs: int | None = None
    seed: int = 1
    deadline: float | None = None
    quick: bool = False
    gc_enabled: bool = True
    clock: Callable[[], float] = time.monotonic

    def remaining(self) -> float | None:
        """Return the seconds to the deadline, None without one. Raises OutOfTimeError after it."""
        if self.deadline is None:
            return None
        left = self.deadline - self.clock()
        if left <= 0:
            raise OutOfTimeError
        return left


def run(benchmark: Benchmark, settings: Settings, progress: Progress = lambda _: None) -> Result:
    """Run a warm-up round and then the counted ones; samples are kept even if the run ends early."""
    arms, skipped = available(benchmark)
    rounds = settings.pairs or benchmark.pairs
    result = _blank(benchmark, settings, arms, skipped, rounds)
    if benchmark.reference not in [arm.name for arm in arms]:
        result.status, result.reason = "skipped", skipped.get(benchmark.reference, "no reference arm")
        return result
    try:
        for number, order in enumerate(orders(arms, rounds + 1, settings.seed, benchmark.name)):
            progress(f"round {number} of {rounds}" if number else "warm-up round")
            for position, arm in enumerate(order):
                sample = measure(arm, number, position, settings)
                if number:
                    result.samples.append(sample)
            if mismatch := disagreement(result.samples):
                result.status, result.reason = "invalid", mismatch
                break
    except OutOfTimeError:
        result.status, result.reason = "partial", "the time limit was reached"
    except KeyboardInterrupt:
        result.status, result.reason = "partial", "interrupted"
    except ArmError as error:
        result.status, result.reason = "invalid", str(error)
    return result


def available(benchmark: Benchmark) -> tuple[list[Arm], dict[str, str]]:
    """Return the arms that can run here, including the A/A control, and the reasons for the others."""
    arms: list[Arm] = []
    skipped: dict[str, str] = {}
    for arm in benchmark.arms:
        reason = arm.unavailable() if arm.unavailable else None
        if reason is None:
            arms.append(arm)
        else:
            skipped[arm.name] = reason
    if any(arm.name == benchmark.reference for arm in arms):
        arms.append(replace(benchmark.reference_arm, name=CONTROL, goals=()))
    return arms, skipped


def orders(arms: Sequence[Arm], rounds: int, seed: int, name: str) -> Iterator[list[Arm]]:
    """Return a random order of all arms for every round, determined by the seed and benchmark."""
    rng = random.Random(f"{seed}/{name}")
    for _ in range(rounds):
        yield rng.sample(arms, k=len(arms))


def disagreement(samples: Sequence[Sample]) -> str | None:
    """Name the arms with different checksums; arms without one are ignored."""
    arms_by_checksum: dict[str, set[str]] = {}
    for sample in samples:
        if sample.checksum is not None:
            arms_by_checksum.setdefault(sample.checksum, set()).add(sample.arm)
    if len(arms_by_checksum) < 2:
        return None
    parts = (f"{', '.join(sorted(arms))} gave {text}" for text, arms in sorted(arms_by_checksum.items()))
    return f"checksums differ: {'; '.join(parts)}"


def measure(arm: Arm, number: int, position: int, settings: Settings) -> Sample:
    """Run an arm once. Raises OutOfTimeError before it starts or if it is interrupted, and ArmError."""
    remaining = settings.remaining()
    try:
        with _collector(settings.gc_enabled):
            work, measured = _run_arm(arm, remaining)
    except (CommandError, TimeoutError) as error:
        settings.remaining()  # an arm cut short by the deadline has not failed
        raise ArmError(f"{arm.name}: {error}") from error
    except Exception as error:  # an arm may raise anything; samples of the others are kept
        raise ArmError(f"{arm.name}: {type(error).__name__}: {error}") from error
    if arm.checked and work.checksum is None:
        raise ArmError(f"{arm.name}: gave no checksum of its work")
    if work.count > 0 and measured[figures.WALL] > 0:
        measured[figures.RATE] = work.count / measured[figures.WALL]
    measured |= work.figures
    return Sample(number, position, arm.name, work.count, work.checksum, measured)


def _run_arm(arm: Arm, remaining: float | None) -> tuple[Work, dict[str, float]]:
    if arm.command is not None:
        completed, work = run_command(arm.command, remaining)
        measured: dict[str, float] = {
            figures.WALL: completed.wall,
            figures.CPU: completed.cpu,
            figures.PEAK_RSS: completed.peak_rss,
        }
        if completed.own_peak_rss is not None:
            measured[figures.OWN_PEAK_RSS] = completed.own_peak_rss
        if completed.first_output is not None:
            measured[figures.FIRST_OUTPUT] = completed.first_output
        return work, measured
    assert arm.call is not None
    if inspect.iscoroutinefunction(arm.call):
        return anyio.run(_timed, arm.call, remaining)
    return _timed_call(arm.call)


async def _timed(call: InProcess, remaining: float | None) -> tuple[Work, dict[str, float]]:
    with anyio.fail_after(remaining):
        cpu, wall = time.process_time(), time.perf_counter()
        pending = call()
        work = pending if isinstance(pending, Work) else await pending
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return work, {figures.WALL: wall, figures.CPU: cpu}


def _timed_call(call: InProcess) -> tuple[Work, dict[str, float]]:
    cpu, wall = time.process_time(), time.perf_counter()
    work = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return cast(Work, work), {figures.WALL: wall, figures.CPU: cpu}


GC_THRESHOLD = 2_000
"""`engine.cli.event_loop.COLLECT_AFTER`; named again because the harness imports nothing of the engine."""


@contextmanager
def _collector(enabled: bool) -> Iterator[None]:
    """Collect garbage before an arm, then configure the collector as the command line does."""
    was_enabled, thresholds = gc.isenabled(), gc.get_threshold()
    gc.collect()
    gc.set_threshold(GC_THRESHOLD)
    if enabled:
        gc.enable()
    else:
        gc.disable()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if was_enabled:
            gc.enable()
        else:
            gc.disable()


def _blank(
    benchmark: Benchmark, settings: Settings, arms: Sequence[Arm], skipped: dict[str, str], rounds: int
) -> Result:
    return Result(
        name=benchmark.name,
        description=benchmark.description,
        unit=benchmark.unit,
        metric=benchmark.metric,
        comparison=benchmark.comparison,
        reference=benchmark.reference,
        arms={arm.name: list(arm.goals) for arm in arms},
        seed=settings.seed,
        rounds=rounds,
        quick=settings.quick,
        gc_enabled=settings.gc_enabled,
        skipped=skipped,
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        python=python_build(),
        libraries=versions({*LIBRARIES, *benchmark.libraries}),
        commit=commit(),
    )
