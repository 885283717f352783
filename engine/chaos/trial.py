"""The runs of a trial. Each attempt of a run is a process, which is killed and followed by the next."""

from __future__ import annotations

import pickle
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import anyio.to_thread
import orjson

from engine.chaos.attempt import PLACES, RUN_ID, Attempt, Disturbances
from engine.chaos.scratch import digest, lines_of, on_scratch, rows_of, writes_lines
from engine.chaos.verdict import ChaosReport, Finding, World, differences
from engine.contract.clock import FrozenClock
from engine.contract.types import Record
from engine.errors import ConfigError
from engine.execution.engine import Engine
from engine.fault_injection import VARIABLE
from engine.plan.model import Plan
from engine.sandbox.child import environment
from engine.state.records import DeadLetterFilter, JournalFilter, RunStatus
from engine.state.sqlite import SqliteStateStore
from engine.trial import paying_nodes

_PATIENCE = 20  # time limit of one attempt, in multiples of the undisturbed run
_PATIENCE_AT_LEAST = 120.0  # seconds
_LISTING = frozenset({"splits_listed", "splits_stored"})  # disturbed runs are given the listing
_TAIL = 2000  # characters of what a child has written to standard error

Arrived = Mapping[str, Callable[[], Iterable[Record]]]


@dataclass
class _Frozen:
    """The listings and the paid answers of the undisturbed run."""

    splits: dict[str, list[Any]]
    journal: list[Any]
    records: int

    @classmethod
    async def of(cls, folder: Path, plan: Plan) -> _Frozen:
        async with SqliteStateStore(folder) as store:
            splits = {node.name: (await store.splits(RUN_ID, node.name))[0] for node in plan.sources}
            known = await store.list_journal(JournalFilter(run_id=RUN_ID))
            answers = await store.get_journal([entry.key for entry in known])
            tally = await store.tally(RUN_ID)
        return cls(splits, list(answers.values()), tally.read)

    async def put(self, folder: Path, random: Random) -> None:
        """Give a run the same listings and answers, in another order."""
        async with SqliteStateStore(folder) as store:
            for node, splits in self.splits.items():
                shuffled = random.sample([one.split for one in splits], len(splits))
                await store.add_splits(RUN_ID, node, shuffled, complete=True, restart=True)
            if self.journal:
                await store.put_journal(self.journal)


class _Arm:
    """One run of the plan, over all its processes."""

    def __init__(self, attempt: Attempt, plan: Plan, arrived: Arrived, patience: float | None) -> None:
        self._attempt, self._plan, self._arrived, self._patience = attempt, plan, arrived, patience
        self._folder = attempt.folder
        self.kills = 0

    async def run(self, kills: Sequence[tuple[str, int]], frozen: _Frozen | None = None) -> World:
        """Return the final state. `kills`: where its processes are killed."""
        random = Random(self._attempt.seed)  # noqa: S311 - to be repeated, not to be kept secret
        store = SqliteStateStore(self._folder)
        async with Engine(store=store, clock=FrozenClock(self._attempt.now)) as engine:
            await engine.begin(self._plan, run_id=RUN_ID, seed=RUN_ID)
        if frozen is not None:
            await frozen.put(self._folder, random)
        error = ""
        for number, kill_at in enumerate([*kills, None]):
            seed = f"{self._attempt.seed}.{number}"
            code, error = await self._process(replace(self._attempt, seed=seed, kill_at=kill_at))
            if kill_at is None or code != -signal.SIGKILL:
                break
            self.kills += 1
            if await self._status() is not RunStatus.RUNNING:
                break  # killed after its end
        return await self._world(error)

    async def _process(self, attempt: Attempt) -> tuple[int, str]:
        """Return the exit code of an attempt, and its error."""
        errors = self._folder / "errors"
        task = self._folder / "attempt"
        task.write_bytes(pickle.dumps(sys.path) + pickle.dumps(attempt))
        process = _started(task, errors)
        try:
            with anyio.move_on_after(self._patience) as scope:
                await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        finally:
            process.kill()
            code = process.wait()
        if scope.cancelled_caught:
            return code, f"no end within {self._patience:.0f} s"
        if code and not (attempt.kill_at and code == -signal.SIGKILL):
            return code, errors.read_text("utf-8", "replace")[-_TAIL:].strip() or f"exit code {code}"
        return code, ""

    async def _status(self) -> RunStatus:
        async with SqliteStateStore(self._folder) as store:
            return (await store.get_run(RUN_ID)).status

    async def _world(self, error: str) -> World:
        async with SqliteStateStore(self._folder) as store:
            record = await store.get_run(RUN_ID)
            letters = await store.dead_letters(DeadLetterFilter(run_id=RUN_ID))
        world = World(status=record.status, error=error or record.error)
        world.dead = {(letter.node, letter.key) for letter in letters}
        for node in self._plan.sinks:
            if node.name in self._arrived:
                world.counted[node.name] = Counter(map(digest, self._arrived[node.name]()))
            elif writes_lines(node):
                world.counted[node.name] = lines_of(node, self._folder)
            else:
                world.rows[node.name] = rows_of(node, self._folder)
        return world


def _kills(places: Mapping[str, int], kills: int, seed: int) -> list[tuple[str, int]]:
    """Choose where a run is killed: seeds take turns, so that a few of them cover every place."""
    names = sorted(name for name in places if name not in _LISTING)
    random = Random(seed)  # noqa: S311 - to be repeated, not to be kept secret
    Random(0).shuffle(names)  # noqa: S311 - places that follow each other in the work are apart
    turns = [names[(seed * kills + turn) % len(names)] for turn in range(kills)]
    return [(name, random.randint(1, 1 + 2 * (places[name] - 1) // (kills + 1))) for name in turns]


def _started(task: Path, errors: Path) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in environment().items() if name != VARIABLE}
    with errors.open("wb") as err:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
            [sys.executable, "-m", "engine.chaos", str(task)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            env=environ,
            start_new_session=True,  # keeps the terminal's Ctrl-C from it: this process ends it
        )


async def chaos(
    load: Callable[[], Plan],
    *,
    seed: int = 0,
    runs: int = 5,
    how: Disturbances | None = None,
    arrived: Arrived | None = None,
    clean: Callable[[], None] = lambda: None,
    paid: bool = False,
    owner: Engine | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> ChaosReport:
    """Test a plan under kills and failures, and stop at the first seed with a difference.

    Args:
        load: returns the plan. Child processes import it: a function at the top of a module, or a
            `functools.partial` of one.
        seed: seed of the first disturbed run; the others use the following numbers.
        runs: number of disturbed runs.
        how: the disturbances; by default three kills for each run, and failures and delays of calls.
        arrived: sinks that are tested themselves: by node, a function that returns what has arrived.
        clean: empties these sinks; called before each run.
        paid: allow nodes that pay for their answers; they pay once, in the undisturbed run.
        owner: an engine whose embedded services are used.
        tell: called with a line of progress when a run has ended.

    Raises:
        ConfigError: `load` cannot be imported by another process, something pays and `paid` is false or it
            has no budget, or the undisturbed run does not complete.
    """
    arrived = arrived or {}
    _check_importable(load)
    plan = load()
    _check(plan, arrived, paid=paid)
    async with AsyncExitStack() as stack:
        root = Path(stack.enter_context(TemporaryDirectory(prefix="odw-chaos-")))
        engine = owner if owner is not None else await stack.enter_async_context(Engine())
        scratch = on_scratch(plan, root / "plan", arrived)
        await engine.provide({node.needs_sandbox for node in scratch.nodes} - {""}, plan.warehouse)
        attempt = Attempt(
            load=load,
            folder=root / "undisturbed",
            now=datetime.now(UTC),
            endpoints=engine.endpoints,
            tried=frozenset(arrived),
            how=how or Disturbances(),
            seed="",
        )
        return await _tried(plan, attempt, range(seed, seed + runs), arrived, clean, tell)


async def _tried(
    plan: Plan,
    attempt: Attempt,
    seeds: Sequence[int],
    arrived: Arrived,
    clean: Callable[[], None],
    tell: Callable[[str], None],
) -> ChaosReport:
    """Make the undisturbed run, and disturbed ones until one differs."""
    clean()
    began = anyio.current_time()
    calm = await _Arm(replace(attempt, how=Disturbances(0, 0.0, 0.0)), plan, arrived, None).run(())
    patience = max(_PATIENCE_AT_LEAST, _PATIENCE * (anyio.current_time() - began))
    if calm.status is not RunStatus.COMPLETED:
        raise ConfigError(f"{plan.pipeline}: the undisturbed run has to complete first: {calm.error}")
    frozen = await _Frozen.of(attempt.folder, plan)
    tell(f"undisturbed: {frozen.records:,} records")
    places = orjson.loads((attempt.folder / PLACES).read_bytes())
    made, kills, findings = list[int](), 0, list[Finding]()
    for seed in seeds:
        made.append(seed)
        clean()
        stormy = replace(attempt, folder=attempt.folder.with_name(str(seed)), seed=str(seed))
        arm = _Arm(stormy, plan, arrived, patience)
        findings = differences(seed, calm, await arm.run(_kills(places, attempt.how.kills, seed), frozen))
        kills += arm.kills
        tell(f"seed {seed}: {arm.kills} kills, {'another result' if findings else 'the same result'}")
        if findings:
            break
        await anyio.to_thread.run_sync(shutil.rmtree, stormy.folder)
    return ChaosReport(plan.pipeline, frozen.records, made, kills, findings)


def _check_importable(load: Callable[[], Plan]) -> None:
    try:
        text = pickle.dumps(load)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        reason = str(error)
    else:
        if b"__main__" not in text:
            return
        reason = "it is in the program's main module"
    raise ConfigError(
        f"chaos: child processes cannot import {load!r}: {reason}; give a function at the top of a module, "
        "or a functools.partial of one"
    )


def _check(plan: Plan, arrived: Arrived, *, paid: bool) -> None:
    unknown = sorted(set(arrived) - {node.name for node in plan.sinks})
    if unknown:
        raise ConfigError(f"{plan.pipeline}: no sink is called {', '.join(unknown)}")
    paying = paying_nodes(plan)
    if not paid and paying:
        raise ConfigError(f"{plan.pipeline}: {', '.join(paying)} pays for answers: add --yes")
    unbounded = [name for name in paying if getattr(plan.node(name).params, "budget_usd", None) is None]
    if unbounded:
        raise ConfigError(f"{plan.pipeline}: {', '.join(unbounded)} pays for answers and has no `budget_usd`")
