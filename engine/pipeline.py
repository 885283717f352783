"""Pipelines in Python, validated like YAML.

::

    pipeline = engine.Pipeline(
        "squares",
        numbers=engine.node(numbers, count=100),
        square=engine.node(square),
        load=engine.node("sink.jsonl", path="squares.jsonl"),
    )
    report = await engine.run(pipeline)
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from engine.config import Overrides, load_file, load_mapping, select
from engine.config.problems import unknown
from engine.contract.arguments import expect
from engine.contract.background import background_tasks
from engine.contract.batch import Batch
from engine.contract.component import ComponentSpec, Kind, NoParams, Receipt, Sink
from engine.contract.types import JsonValue, Record
from engine.contract.unplanned import has_asyncio_loop
from engine.errors import ConfigError, Problem
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.session import Session, starting
from engine.plan.compile import compile_file, compile_plan
from engine.plan.model import Plan, PlanNode
from engine.registry import Registry, find_modules_beside


@dataclass(frozen=True)
class Node:
    """A node of a pipeline in Python; created by `node`."""

    component: object
    params: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def node(
    component: object,
    /,
    *,
    input: str | Sequence[str] = (),  # noqa: A002 - the same word as in YAML
    options: Mapping[str, Any] | None = None,
    **params: Any,
) -> Node:
    """Create a node from a decorated function, a component class, or a name `"<kind>.<name>"`.

    Args:
        input: the node or nodes to take records from; by default the preceding one.
        options: engine options of the node, as in YAML (`retry`, `concurrency`, `ordered`, …).
        params: the parameters under `with:` in YAML.
    """
    inputs = (input,) if isinstance(input, str) else tuple(input)
    return Node(component, params, inputs, dict(options or {}))


class Pipeline:
    """A pipeline in Python.

    Args:
        name: the pipeline's name.
        connections: as in YAML.
        settings: the pipeline's other keys as in YAML (`dead_letters`, `memory`, `timeout`, …).
        nodes: the nodes, in order.
    """

    def __init__(
        self,
        name: str,
        /,
        *,
        connections: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        **nodes: Node,
    ) -> None:
        for one, made in nodes.items():
            what = "a node: `engine.node(…)`; settings of the pipeline belong in `settings={…}`"
            expect("engine.Pipeline", one, made, lambda value: isinstance(value, Node), what)
        self.name = name
        self._connections = dict(connections or {})
        self._settings = dict(settings or {})
        self._nodes = nodes

    def plan(self, *, registry: Registry | None = None, taps: Collection[str] = ()) -> Plan:
        """Return the validated plan.

        Args:
            taps: nodes whose output the caller consumes, so they need no sink.

        Raises:
            ConfigError: with everything that is wrong.
        """
        known = registry or Registry.installed()
        own = [one.component for one in self._nodes.values() if hasattr(one.component, "spec")]
        known = known.including(*own)
        document = {
            "version": 1,
            "connections": self._connections,
            "pipelines": {
                self.name: {
                    **self._settings,
                    "nodes": {name: _as_mapping(one) for name, one in self._nodes.items()},
                }
            },
        }
        file = load_mapping(document, environ=os.environ)
        file.check()
        return compile_plan(file.pipelines[self.name], file, known, taps=taps)


def _as_mapping(one: Node) -> dict[str, JsonValue]:
    spec = getattr(one.component, "spec", None)
    if isinstance(spec, ComponentSpec):
        kind, name = str(spec.kind), spec.name
    elif isinstance(one.component, str) and "." in one.component:
        kind, _, name = one.component.partition(".")
    else:
        raise ConfigError(
            f"{one.component!r} is not a component: use a decorated function, a component class, or "
            f'"<kind>.<name>" such as "sink.jsonl"'
        )
    mapping: dict[str, JsonValue] = {kind: name, "with": dict(one.params), **one.options}
    if one.inputs:
        mapping["input"] = list(one.inputs)
    return mapping


def load(
    path: str | os.PathLike[str],
    *,
    only: Collection[str] = (),
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
    environ: Mapping[str, str] | None = None,
    registry: Registry | None = None,
) -> dict[str, Plan]:
    """Load the plans of a YAML file, by the pipelines' own names.

    Args:
        only: load only these pipelines, by name or alias, and their followers; empty means all.
        params: run parameters by pipeline, as `--param pipeline.name=value` gives them.
        environ: the values of `${NAME}`; the process's environment by default.

    Raises:
        ConfigError: with everything that is wrong.
    """
    plans, _ = _from_file(path, only, params, os.environ if environ is None else environ, registry)
    return plans


def _from_file(
    path: str | os.PathLike[str],
    only: Collection[str],
    params: Mapping[str, Mapping[str, JsonValue]] | None,
    environ: Mapping[str, str],
    registry: Registry | None = None,
) -> tuple[dict[str, Plan], list[str]]:
    """Return the plans, and `only` with aliases resolved."""
    for name, values in (params or {}).items():
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"params: expected the values of a pipeline, as in {{PIPELINE: {{{name!r}: …}}}}"
            )
    find_modules_beside(path)
    file = load_file(Path(path), environ=environ, overrides=Overrides(params=dict(params or {})))
    only = [only] if isinstance(only, str) else only
    if only:
        file = select(file, only)
    return compile_file(file, registry or Registry.installed()), [file.resolve_alias(name) for name in only]


async def run(
    what: Pipeline | Plan | Mapping[str, Plan] | str | os.PathLike[str],
    *,
    only: Collection[str] = (),
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    engine: Engine | None = None,
    verify: bool = False,
) -> dict[str, RunReport]:
    """Run a file, a pipeline or plans until they end; several pipelines run concurrently.

    As on the command line, pipelines in `on_complete`, `on_failure` or `on_cancel` start after such an end,
    and a failed run is retried up to `retries` times. A plan alone has no followers.

    Args:
        what: a file, a pipeline, a plan, or plans by name as returned by `load`.
        only: start only these pipelines of a file, by name or alias, and their followers; empty means all.
        params: run parameters by pipeline, for a file.
        state_dir: directory of the state; None keeps it in memory, so the runs cannot be resumed.
        engine: an open engine to use instead of creating one for this call.
        verify: at the end, compare the reports with the ledger and with the sinks; see `verified` and
            `checks` of a report.

    Returns:
        The reports of all runs, by pipeline; the report of a run that ended early has its error.

    Raises:
        ConfigError, StateError, ServiceError: a run could not be started; the others are cancelled.
    """
    plans, wanted = _plans(what, only, params)
    async with AsyncExitStack() as stack:
        alone = engine is None
        if engine is None:
            made = Engine(state_dir=Path(state_dir) if state_dir is not None else None)
            engine = await stack.enter_async_context(made)
        session = Session(
            engine, plans, starting(plans, wanted), raising=True, verify=verify, posts_pending=alone
        )
        await session.execute()
    return Reports(session.reports)


class Reports(dict[str, RunReport]):
    """Reports by pipeline; notebooks show them as tables."""

    def _repr_html_(self) -> str:
        return "".join(report._repr_html_() for report in self.values())


def run_sync(
    what: Pipeline | Plan | Mapping[str, Plan] | str | os.PathLike[str],
    *,
    only: Collection[str] = (),
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    verify: bool = False,
) -> dict[str, RunReport]:
    """Do the same as `run`, for programs and notebooks without `await`.

    If an event loop is already running, as in a notebook, the run uses its own in another thread, and the
    caller waits.
    """
    work = partial(run, what, only=only, params=params, state_dir=state_dir, verify=verify)
    if not _on_event_loop():
        return anyio.run(work)
    with ThreadPoolExecutor(1, "odw-run") as threads:
        return threads.submit(Context().run, partial(anyio.run, work)).result()


def _on_event_loop() -> bool:
    """Return whether anyio would refuse to start an event loop here.

    A callback of a loop has no task; a process that a task forked has no loop, but the task's context.
    """
    if has_asyncio_loop():
        return True
    try:
        anyio.lowlevel.current_token()
    except RuntimeError as error:
        return not isinstance(error, anyio.NoEventLoopError)
    return True


def _plans(
    what: Pipeline | Plan | Mapping[str, Plan] | str | os.PathLike[str],
    only: Collection[str],
    params: Mapping[str, Mapping[str, JsonValue]] | None,
) -> tuple[Mapping[str, Plan], list[str]]:
    if isinstance(what, str | os.PathLike):
        return _from_file(what, only, params, os.environ)
    if params:
        raise ConfigError("`params` only apply to a file: pass the values to the nodes of this pipeline")
    if isinstance(what, Plan):
        what = {what.pipeline: what}
    elif isinstance(what, Pipeline):
        what = {what.name: what.plan()}
    elif not isinstance(what, Mapping):
        raise ConfigError(f"expected a file, a pipeline or plans to run, got {type(what).__name__}")
    only = [only] if isinstance(only, str) else only
    for name, plan in what.items():
        if not isinstance(plan, Plan):
            raise ConfigError(
                f"expected plans by name, as `engine.load` gives them, but {name!r} is a "
                f"{type(plan).__name__}: give a file, or an `engine.Pipeline`"
            )
    for name in only:
        if name not in what:
            raise ConfigError([Problem(unknown("pipeline", name, what), file="only")])
    return what, list(only)


@asynccontextmanager
async def stream(
    pipeline: Pipeline | Plan, node: str, *, engine: Engine | None = None
) -> AsyncGenerator[AsyncGenerator[Record, None], None]:
    """Stream the output of a node; leaving the block ends the run.

    ::

        async with engine.stream(pipeline, "square") as records:
            async for record in records:
                ...

    A record counts as written once the loop requests the next one. The loop raises an error of the run.
    """
    plan = pipeline.plan(taps=[node]) if isinstance(pipeline, Pipeline) else pipeline
    send, receive = anyio.create_memory_object_stream[Record](0)
    tapped = _with_tap(plan, node, _Tap(send.send))

    async def feed(owner: Engine) -> None:
        with send:
            report = await owner.run(tapped)
        failures.extend([report.failure] if report.failure is not None else [])

    failures: list[BaseException] = []

    async def records() -> AsyncGenerator[Record, None]:
        async for record in receive:
            yield record
        if failures:
            raise failures[0]

    async with AsyncExitStack() as stack:
        owner = engine if engine is not None else await stack.enter_async_context(Engine())
        stack.enter_context(receive)
        output = await stack.enter_async_context(aclosing(records()))
        group = await stack.enter_async_context(background_tasks())
        group.start_soon(feed, owner)
        yield output


class _Tap(Sink[NoParams]):
    """Passes records to the consumer of the stream."""

    def __init__(self, send: Callable[[Record], Any]) -> None:
        super().__init__(NoParams())
        self._send = send

    async def write(self, batch: Batch) -> Receipt | None:
        for record in batch.records:
            await self._send(record)
        return None


def _with_tap(plan: Plan, node: str, tap: _Tap) -> Plan:
    plan.node(node)
    spec = ComponentSpec("tap", Kind.SINK, lambda params, connection: tap)
    return replace(plan, nodes=(*plan.nodes, PlanNode(f"{node}.tap", spec, NoParams(), None, (node,))))
