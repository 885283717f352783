"""The work of a child process: one attempt of a run, with disturbed calls, until it ends or is killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import anyio
import orjson
from pydantic import BaseModel

from engine import fault_injection
from engine.chaos.scratch import on_scratch
from engine.config.model import RetryOptions
from engine.contract.batch import Batch
from engine.contract.clock import FrozenClock
from engine.contract.component import Component, ComponentFactory, Sink
from engine.errors import TransientError
from engine.execution.engine import Engine
from engine.plan.model import DeadLetterSettings, Plan, PlanNode
from engine.state.sqlite import SqliteStateStore

RUN_ID = "chaos"
PLACES = "places"
"""Written by an attempt that was not killed: the places that it reached, and how often."""

_INNER = "undisturbed"
_LONGEST_DELAY = 0.005  # seconds
_OUTAGE_LIMIT = 60.0  # seconds: a trial is not worth a long wait for a service


@dataclass(frozen=True, slots=True)
class Disturbances:
    """The disturbances of a run. Shares are fractions of the calls of components.

    Args:
        kills: how often its process is killed and the run resumed.
        failures: share of calls that fail with a `TransientError`, before or after a transform's work.
        delays: share of calls that are delayed for a moment.
    """

    kills: int = 3
    failures: float = 0.1
    delays: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a run, in the process that unpickles it.

    Args:
        load: returns the plan; a child process imports it.
        folder: holds the run's state and its scratch sinks.
        now: fixed time of the clock, so that timestamps in records do not differ.
        endpoints: addresses of embedded services, which another process runs.
        tried: sinks that are not replaced by scratch sinks.
        seed: of the disturbances.
        kill_at: a place, and the visit to it (counted from 1) at which the process is killed.
    """

    load: Callable[[], Plan]
    folder: Path
    now: datetime
    endpoints: Mapping[str, dict[str, str]]
    tried: frozenset[str]
    how: Disturbances
    seed: str
    kill_at: tuple[str, int] | None = None

    async def run(self) -> None:
        """Continue the run in the state store until it ends.

        Raises:
            EngineError: it cannot be continued.
        """
        places = _Places(self.kill_at)
        plan = _Disturbed(self.how, self.seed, places).plan(on_scratch(self.load(), self.folder, self.tried))
        store = SqliteStateStore(self.folder)
        async with Engine(store=store, clock=FrozenClock(self.now)) as engine:
            engine.share_sandbox(self.endpoints)
            for lease in await store.leases(RUN_ID):
                await store.release_lease(lease)  # its holder was killed
            fault_injection.observe(places)
            await engine.run(plan, resume=await store.get_run(RUN_ID))
        (self.folder / PLACES).write_bytes(orjson.dumps(places.times))


class _Places:
    """Counts how often a process reaches each place, and kills it at one of them."""

    def __init__(self, kill_at: tuple[str, int] | None) -> None:
        self.times: Counter[str] = Counter()
        self._kill_at = kill_at

    def __call__(self, name: str) -> None:
        self.times[name] += 1
        if self._kill_at == (name, self.times[name]):
            os.kill(os.getpid(), signal.SIGKILL)


class _Disturbed:
    """Puts disturbances around the calls of components."""

    def __init__(self, how: Disturbances, seed: str, places: _Places) -> None:
        self._how, self._places = how, places
        self._random = Random(seed)  # noqa: S311 - to be repeated, not to be kept secret

    def plan(self, plan: Plan) -> Plan:
        """Return the plan with disturbed calls, without forwarded dead letters."""
        return replace(
            plan,
            nodes=tuple(map(self._node, plan.nodes)),
            dead_letters=DeadLetterSettings(),
            settings=replace(
                plan.settings,
                if_running="allow",
                outage_limit=min(plan.settings.outage_limit, _OUTAGE_LIMIT),
            ),
        )

    def _node(self, node: PlanNode) -> PlanNode:
        options = replace(node.options, retry=RetryOptions(attempts=8, base=0.0, cap=0.0))
        return replace(node, spec=replace(node.spec, factory=self._wrapping(node)), options=options)

    def _wrapping(self, node: PlanNode) -> ComponentFactory:
        def build(params: BaseModel, connection: BaseModel | None) -> Component[Any]:
            component: Any = node.spec.factory(params, connection)
            name = "write" if isinstance(component, Sink) else "apply"
            if hasattr(component, name):
                call = getattr(component, name)
                call = getattr(call, _INNER, call)  # a factory may return the same component each time
                waits = name == "write" or component.waits
                edge = _Edge(f"{node.name}.{name}", self._how, self._random, self._places)
                disturbed = edge.later(call) if waits else edge.now(call)
                setattr(disturbed, _INNER, call)
                setattr(component, name, disturbed)
            return component  # type: ignore[no-any-return]

        return build


@dataclass(frozen=True, slots=True)
class _Edge:
    """The disturbances around the calls of one node; `name` is that of the node and its method."""

    name: str
    how: Disturbances
    random: Random
    places: _Places

    def later(self, call: Callable[[Batch], Awaitable[Any]]) -> Callable[[Batch], Awaitable[Any]]:
        """Return the call of a component that waits, disturbed."""

        async def disturbed(batch: Batch) -> Any:
            self._begin()
            if self.random.random() < self.how.delays:
                await anyio.sleep(self.random.random() * _LONGEST_DELAY)
            result = await call(batch)
            self._end()
            return result

        return disturbed

    def now(self, call: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        """Return the call of a component that does not wait, disturbed."""

        def disturbed(batch: Batch) -> Any:
            self._begin()
            result = call(batch)
            self._end()
            return result

        return disturbed

    def _begin(self) -> None:
        self.places(f"before {self.name}")
        if self.random.random() < self.how.failures / 2:
            raise TransientError("injected before the call")

    def _end(self) -> None:
        self.places(f"after {self.name}")
        # a write that fails after delivery would break a sink's own record of what it has written
        if self.random.random() < self.how.failures / 2 and not self.name.endswith(".write"):
            raise TransientError("injected after the call")
