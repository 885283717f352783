"""A pipeline run again and again under kills and failures, and compared with an undisturbed run.

The undisturbed run freezes what there is to read and what models answered. Each disturbed one reads the same
splits in another order, under the same run id and seed: calls fail now and then and are held up, and the
run is cut off in the middle of its work, as a kill would, and resumed. At the end every sink must have the
same records under the same keys, with the same values, each once, and the same records must be dead.

Sinks are replaced by scratch ones that keep what they get as a warehouse does: the last delivery of a key
wins where a batch is marked as a replay, and any other one is appended. A sink that can tell what it has may
be tried itself instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import anyio
import orjson
from pydantic import BaseModel

from engine.config.model import RetryOptions
from engine.contract.batch import Batch
from engine.contract.clock import Clock, FrozenClock
from engine.contract.component import Component, Kind, NoParams, Receipt, Sink
from engine.contract.types import JsonValue, Record
from engine.dead_letters.queue import as_json
from engine.errors import ConfigError, EngineError, StateError, TransientError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.plan.model import DeadLetterSettings, Plan, PlanNode
from engine.state.protocol import DeadLetterFilter, JournalFilter, RunRecord, RunStatus, StateStore
from engine.state.sqlite import SqliteStateStore
from engine.trial import paying_nodes

__all__ = ["ChaosReport", "Disturbances", "Finding", "chaos"]

SHOWN = 3
RUN_ID = "chaos"
_INNER = "undisturbed"

Arrived = Mapping[str, Callable[[], Iterable[Record]]]


@dataclass(frozen=True, slots=True)
class Disturbances:
    """What is done to a run. Shares are of the calls of components.

    Args:
        kills: how often it is cut off and resumed.
        failures: calls that fail with a `TransientError` before they do anything.
        delays: calls that are held up for a moment.
    """

    kills: int = 3
    failures: float = 0.1
    delays: float = 0.2


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference between a disturbed run and the undisturbed one. `seed` makes it again."""

    seed: int
    node: str
    what: str
    keys: Sequence[str] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:SHOWN]) + (", …" if len(self.keys) > SHOWN else "")
        count = f": {len(self.keys)} ({shown})" if self.keys else ""
        return f"seed {self.seed}: {self.node}: {self.what}{count}"


@dataclass(frozen=True, slots=True)
class ChaosReport:
    """The outcome of all runs.

    Attributes:
        records: how many were read in the undisturbed run.
        seeds: the disturbed runs that were made; the first with a difference is the last.
        kills: how often a run was cut off in all.
    """

    pipeline: str
    records: int
    seeds: Sequence[int]
    kills: int
    findings: Sequence[Finding]

    @property
    def ok(self) -> bool:
        """True when no disturbed run differs."""
        return not self.findings


@dataclass
class _World:
    """What one arm has in the end, by node."""

    rows: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Key to digests of values, of scratch sinks."""
    counted: dict[str, Counter[str]] = field(default_factory=dict)
    """Digests of what real sinks have."""
    dead: set[tuple[str, str]] = field(default_factory=set)
    status: RunStatus = RunStatus.RUNNING
    error: str = ""
    calls: int = 0


class _Scratch(Sink[NoParams]):
    """Keeps what it gets, by key."""

    def __init__(self, rows: dict[str, list[str]]) -> None:
        super().__init__(NoParams())
        self._rows = rows

    async def write(self, batch: Batch) -> Receipt:
        for key, record in zip(batch.keys.to_list(), batch.records, strict=True):
            if batch.replay:
                self._rows[key] = [_digest(record)]
            else:
                self._rows.setdefault(key, []).append(_digest(record))
        return Receipt()


class _Cut:
    """A store that a process loses at the moment it is killed: nothing that comes later is stored."""

    def __init__(self, store: StateStore, order: Random | None) -> None:
        self._store = store
        self._order = order
        self.dead = False

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.__aexit__(kind, error, trace)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> Any:
            if self.dead:
                raise StateError("the process was killed")
            found = await method(*args, **options)
            if name == "splits" and self._order is not None:
                self._order.shuffle(found[0])
            return found

        return call


class _Arm:
    """One run of the plan, with its attempts."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        arrived: Arrived,
        seed: int | None,
        how: Disturbances,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self.world = _World()
        self.kills = 0
        self._arrived = arrived
        self._how = how if seed is not None else Disturbances(0, 0.0, 0.0)
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be kept secret
        self._order = self._random if seed is not None else None
        self._folder = folder
        self._kill_at = -1
        self._kill: Callable[[], None] = lambda: None
        self._plan = replace(
            plan,
            nodes=tuple(self._disturbed(node) for node in plan.nodes),
            dead_letters=DeadLetterSettings(),
            settings=replace(plan.settings, retries=0, on_complete=(), on_cancel=(), if_running="allow"),
        )

    def _disturbed(self, node: PlanNode) -> PlanNode:
        options = replace(node.options, retry=RetryOptions(attempts=8, base=0.0, cap=0.0))
        if node.kind is Kind.SINK and node.name not in self._arrived:
            rows = self.world.rows.setdefault(node.name, {})
            node = node.replaced_by(_Scratch(rows))
        return replace(
            node, spec=replace(node.spec, factory=self._wrapping(node.spec.factory)), options=options
        )

    def _wrapping(
        self, factory: Callable[[BaseModel, BaseModel | None], Component[Any]]
    ) -> Callable[[BaseModel, BaseModel | None], Component[Any]]:
        def build(params: BaseModel, connection: BaseModel | None) -> Component[Any]:
            component: Any = factory(params, connection)
            name = "write" if isinstance(component, Sink) else "apply"
            if hasattr(component, name):
                call = getattr(component, name)
                call = getattr(call, _INNER, call)  # a factory may hand out the same component each time
                waits = name == "write" or component.waits
                disturbed = self._later(call) if waits else self._now(call)
                setattr(disturbed, _INNER, call)
                setattr(component, name, disturbed)
            return component  # type: ignore[no-any-return]

        return build

    def _later(self, call: Callable[[Batch], Awaitable[Any]]) -> Callable[[Batch], Awaitable[Any]]:
        async def disturbed(batch: Batch) -> Any:
            self._disturb()
            if self._random.random() < self._how.delays:
                await anyio.sleep(self._random.random() / 200)
            result = await call(batch)
            await anyio.lowlevel.checkpoint()  # a kill that is due strikes before the answer is taken
            return result

        return disturbed

    def _now(self, call: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        def disturbed(batch: Batch) -> Any:
            self._disturb()
            return call(batch)

        return disturbed

    def _disturb(self) -> None:
        self.world.calls += 1
        if self.world.calls == self._kill_at:
            self._kill()
        if self._random.random() < self._how.failures:
            raise TransientError("injected")

    async def run(
        self, owner: Engine, calls: int, prepare: Callable[[StateStore, RunRecord], Awaitable[None]]
    ) -> None:
        """Run to the end, through all the kills. `calls`: how many the undisturbed run made."""
        record: RunRecord | None = None
        for attempt in range(self._how.kills + 1):
            last = attempt == self._how.kills
            near = max(1, calls // (self._how.kills + 1))
            self._kill_at = -1 if last else self.world.calls + self._random.randint(1, 2 * near)
            record, report = await self._attempt(owner, record, prepare)
            if report is not None:
                self.world.status, self.world.error = report.status, report.error
                break
            self.kills += 1
        for name, contents in self._arrived.items():
            self.world.counted[name] = Counter(map(_digest, contents()))

    async def _attempt(
        self,
        owner: Engine,
        record: RunRecord | None,
        prepare: Callable[[StateStore, RunRecord], Awaitable[None]],
    ) -> tuple[RunRecord, RunReport | None]:
        cut = _Cut(SqliteStateStore(self._folder), self._order)
        store: Any = cut
        async with Engine(store=store, clock=self._clock, drain_limit=1.0) as engine:
            engine.share_sandbox(owner)
            if record is None:
                record = await engine.begin(self._plan, run_id=RUN_ID, seed=RUN_ID)
                await prepare(store, record)
            for lease in await store.leases(RUN_ID):
                await store.release_lease(lease)  # its holder was killed
            report = await self._watched(engine, record, cut)
            if report is None:
                return record, None
            letters = await store.dead_letters(DeadLetterFilter(run_id=RUN_ID))
            self.world.dead = {(letter.node, letter.key) for letter in letters}
            return record, report

    async def _watched(self, engine: Engine, record: RunRecord, cut: _Cut) -> RunReport | None:
        """The report of an attempt, None when it was cut off."""
        try:
            async with engine.start(self._plan, resume=record) as run:
                self._kill = lambda: _cut_off(run, cut)
                report = await run.wait()
        except EngineError:
            if not cut.dead:
                raise
            return None
        return None if cut.dead else report


def _cut_off(run: Run, cut: _Cut) -> None:
    cut.dead = True
    run.cancel()


async def chaos(
    plan: Plan,
    *,
    seed: int = 0,
    runs: int = 5,
    how: Disturbances | None = None,
    arrived: Arrived | None = None,
    clean: Callable[[], None] = lambda: None,
    paid: bool = False,
    owner: Engine | None = None,
) -> ChaosReport:
    """Try a plan under disturbances, and stop at the first seed with a difference.

    Args:
        seed: of the first disturbed run; the others have the following ones.
        runs: how many disturbed runs there are.
        arrived: sinks that are tried themselves, and what tells what they have then, by node.
        clean: empties these sinks; called before each run.
        paid: nodes that pay for their answers may be used: they pay once, in the undisturbed run.
        owner: an engine whose embedded services are used.

    Raises:
        ConfigError: something pays and `paid` is false, or the undisturbed run does not complete.
    """
    how, arrived = how or Disturbances(), arrived or {}
    # the same time in all runs, or records that say when they were made would differ
    clock = FrozenClock(datetime.now(UTC))
    _check(plan, arrived, paid=paid)
    with TemporaryDirectory(prefix="odw-chaos-") as folder:
        async with AsyncExitStack() as stack:
            engine = owner if owner is not None else await stack.enter_async_context(Engine())
            await engine.provide(plan.sandbox_services)
            clean()
            calm = _Arm(plan, Path(folder) / "calm", arrived, None, how, clock)
            await calm.run(engine, 0, _nothing)
            if calm.world.status is not RunStatus.COMPLETED:
                raise ConfigError(
                    f"{plan.pipeline}: the undisturbed run has to complete first: {calm.world.error}"
                )
            frozen = await _Frozen.of(Path(folder) / "calm", plan)
            seeds: list[int] = []
            kills, findings = 0, list[Finding]()
            for number in range(seed, seed + runs):
                seeds.append(number)
                clean()
                arm = _Arm(plan, Path(folder) / str(number), arrived, number, how, clock)
                await arm.run(engine, calm.world.calls, frozen.put)
                kills += arm.kills
                findings = _differences(number, calm.world, arm.world)
                if findings:
                    break
    return ChaosReport(plan.pipeline, frozen.records, seeds, kills, findings)


@dataclass
class _Frozen:
    """What the undisturbed run has listed, and what it has paid for."""

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

    async def put(self, store: StateStore, record: RunRecord) -> None:
        """Have a disturbed run find the same."""
        for node, splits in self.splits.items():
            await store.add_splits(
                record.run_id, node, [one.split for one in splits], complete=True, anew=True
            )
        if self.journal:
            await store.put_journal(self.journal)


async def _nothing(store: StateStore, record: RunRecord) -> None:
    return None


def _check(plan: Plan, arrived: Arrived, *, paid: bool) -> None:
    sinks = {node.name for node in plan.nodes if node.kind is Kind.SINK}
    unknown = sorted(set(arrived) - sinks)
    if unknown:
        raise ConfigError(f"{plan.pipeline}: no sink is called {', '.join(unknown)}")
    paying = paying_nodes(plan)
    if not paid and paying:
        raise ConfigError(f"{plan.pipeline}: {', '.join(paying)} pays for answers: say --yes")
    unbounded = [name for name in paying if getattr(plan.node(name).params, "budget_usd", None) is None]
    if unbounded:
        raise ConfigError(f"{plan.pipeline}: {', '.join(unbounded)} pays for answers and has no `budget_usd`")


def _differences(seed: int, calm: _World, stormy: _World) -> list[Finding]:
    found: list[Finding] = []
    if stormy.status is not calm.status:
        found.append(Finding(seed, "run", f"{stormy.status} instead of {calm.status}: {stormy.error}"))
    for node, expected in calm.rows.items():
        rows = stormy.rows[node]
        both = expected.keys() & rows.keys()
        found += _named(seed, node, "missing", expected.keys() - rows.keys())
        found += _named(seed, node, "under keys of no undisturbed record", rows.keys() - expected.keys())
        found += _named(
            seed, node, "with other values", (key for key in both if rows[key][-1] != expected[key][-1])
        )
        found += _named(seed, node, "there twice", (key for key, values in rows.items() if len(values) > 1))
    for node, counted in calm.counted.items():
        there = stormy.counted[node]
        found += _named(seed, node, "missing or with other values", (counted - there).elements())
        found += _named(seed, node, "too many, or with other values", (there - counted).elements())
    found += _named(seed, "dead letters", "missing", (key for _, key in calm.dead - stormy.dead))
    found += _named(seed, "dead letters", "too many", (key for _, key in stormy.dead - calm.dead))
    return found


def _named(seed: int, node: str, what: str, keys: Iterable[str]) -> list[Finding]:
    named = sorted(keys)
    return [Finding(seed, node, what, named)] if named else []


def _digest(record: Record) -> str:
    value: JsonValue = as_json(record)[0]
    return sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
