"""The components of one attempt of a run, from opening to the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from engine.contract.collecting import Collects
from engine.contract.component import Component, Context, Sink, Source, Transform
from engine.contract.types import Record
from engine.execution.ledger import SourceBookmarks
from engine.execution.resources import RunIdentity, RunnerResources
from engine.execution.spending import PipelineSpending, StoredAllowances
from engine.flow.budget import WatchedAllowance
from engine.flow.opening import closing_by_name
from engine.flow.outage import Outage
from engine.flow.retry import ComponentRetry, NodeHealth, RetryPolicy
from engine.flow.segment import Runtime
from engine.flow.stats import NodeStats, Waiting
from engine.flow.tapping import NodeTaps
from engine.plan.model import Plan, PlanNode


class Components:
    """Builds and opens the nodes of a plan, and reports on all of them.

    Args:
        draining: returns whether the run is about to stop.

    Attributes:
        runtimes: the open nodes by name, in the plan's order.
        makers: the methods that make the records of each node.
        forward: the sink that dead letters are forwarded to.
        forward_stats: its counts, from before it is open.
        taps: the taps of each node, from before it is open.
    """

    def __init__(
        self,
        plan: Plan,
        identity: RunIdentity,
        resources: RunnerResources,
        draining: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self.makers = plan.makers()
        self._identity = identity
        self._resources = resources
        self._draining = draining
        self._opening: NodeStats | None = None
        settings = plan.settings
        self._spending = PipelineSpending(
            resources.store,
            resources.clock,
            plan.pipeline,
            identity.run_id,
            settings.budget_usd,
            settings.budget_usd_per_day,
            resources.lease,
        )
        self.runtimes: dict[str, Runtime] = {}
        self.forward: Runtime | None = None
        self.forward_stats: NodeStats | None = None
        self.taps = {node.name: NodeTaps() for node in plan.nodes}

    async def open_nodes(self, stack: AsyncExitStack) -> None:
        """Build and enter every node, in the plan's order.

        Raises:
            OutageError: a node's service was unavailable for longer than `outage_limit`.
            RunError: a node cannot be opened.
        """
        stack.push_async_callback(self._spending.close)
        dead_keys: Mapping[str, Collection[str]] = {}
        if self._identity.resumed:
            store, identity = self._resources.store, self._identity
            dead_keys = await store.dead_letter_keys(identity.run_id, identity.chunk_name)
        for node in self._plan.nodes:
            runtime = await self.enter(stack, node)
            runtime.dead_keys = frozenset(dead_keys.get(node.name, ()))
            self.runtimes[node.name] = runtime
            self._opening = None

    async def open_forward(self, stack: AsyncExitStack) -> tuple[Sink[Any], Runtime] | None:
        """Enter the sink that dead letters are forwarded to, if the plan has one."""
        node = self._plan.dead_letters.forward
        if node is None:
            return None
        self.forward_stats = stats = self._stats_of(node)
        self.forward = await self.enter(stack, node, stats)
        self._opening = None
        sink = self.forward.component
        assert isinstance(sink, Sink)
        return sink, self.forward

    async def enter(self, stack: AsyncExitStack, node: PlanNode, stats: NodeStats | None = None) -> Runtime:
        """Build and enter one node, waiting out an outage of its service."""
        stats = stats or self._stats_of(node)
        policy = self.policy(node)
        health = NodeHealth()
        context = self._context(node, stats, ComponentRetry(policy, stats, self._resources.clock, health))

        async def opened() -> Component[Any]:
            component = node.spec.factory(node.params, self._resources.connect(node))
            component.ctx = context
            return await stack.enter_async_context(closing_by_name(node.name, component))

        self._opening = stats
        component = await Outage("be opened", stats, policy, self._resources.clock).through(opened)
        return Runtime(node, component, stats, policy, health=health, makers=self.makers.get(node.name, ()))

    def _context(self, node: PlanNode, stats: NodeStats, retry: ComponentRetry) -> Context:
        resources, identity, pipeline = self._resources, self._identity, self._plan.pipeline
        return Context(
            pipeline=pipeline,
            node=node.name,
            run_id=identity.run_id,
            seed=identity.seed,
            started_at=identity.started_at,
            attempt=identity.attempt,
            epoch=identity.epoch,
            chunk=identity.chunk_name,
            distinct_keys=self.distinct_keys,
            keep_newer=self._plan.keep_newer,
            clock=resources.clock,
            memory_budget=WatchedAllowance(resources.budget, stats),
            draining=self._draining,
            aggregate=stats.aggregate,
            journal=resources.journal.of_node(pipeline, node.name, identity.run_id),
            bookmarks=SourceBookmarks(resources.store, pipeline, node.name),
            survives_errors=retry.policy.survives_errors,
            retry=retry,
            shared=resources.shared,
            allowances=StoredAllowances(resources.store, resources.clock),
            spending=self._spending,
            lease=resources.lease,
        )

    def policy(self, node: PlanNode) -> RetryPolicy:
        """Return the retry policy of a node."""
        return RetryPolicy.of(node.options, outage_limit=self._plan.settings.outage_limit)

    def output(self) -> dict[str, Sequence[Record]]:
        """Return the records that sinks collected for the caller, by node."""
        kept = {name: runtime.component for name, runtime in self.runtimes.items()}
        return {name: sink.collected() for name, sink in kept.items() if isinstance(sink, Collects)}

    def stats(self) -> list[NodeStats]:
        """The stats of every node that is open or being opened, except the forward."""
        every = [*(runtime.stats for runtime in self.runtimes.values()), self._opening]
        return [stats for stats in every if stats is not None]

    @property
    def in_outage(self) -> bool:
        """Return whether a node waits for an outage to end."""
        every = [*self.stats(), self.forward_stats]
        return any(stats is not None and stats.waiting is Waiting.OUTAGE for stats in every)

    def sources(self) -> dict[str, Source[Any]]:
        """The open sources by the name of their node."""
        every = ((name, runtime.component) for name, runtime in self.runtimes.items())
        return {name: component for name, component in every if isinstance(component, Source)}

    @property
    def distinct_keys(self) -> bool:
        """Return whether no key occurs twice in the run, according to its sources."""
        return all(source.distinct_keys for source in self.sources().values())

    def new_ids(self, name: str) -> bool:
        """Return whether the ids of a source's records are new and occur only once."""
        return self.sources()[name].fresh_keys and self._keeps_ids(name)

    def _keeps_ids(self, source: str) -> bool:
        """Return whether no transform after a source changes the ids of its records."""
        behind = {source}
        for node in self._plan.nodes:  # in topological order
            if behind.intersection(node.inputs):
                behind.add(node.name)
        components = (self.runtimes[name].component for name in behind)
        return all(one.keeps_ids for one in components if isinstance(one, Transform))

    async def tell_completed(self) -> None:
        """Notify every sink that the run is complete, waiting out outages of their services."""
        for runtime in [*self.runtimes.values(), *([self.forward] if self.forward is not None else [])]:
            if isinstance(runtime.component, Sink):
                outage = Outage("complete the run", runtime.stats, runtime.policy, self._resources.clock)
                await outage.through(partial(self._complete, runtime.component))

    async def _complete(self, sink: Sink[Any]) -> None:
        await self._resources.lease.confirm()  # also after an outage
        await sink.run_completed()

    def _stats_of(self, node: PlanNode) -> NodeStats:
        trace = self._resources.trace
        traced = trace.node(node.name, node.spec.name) if trace is not None else None
        stats = NodeStats(node.name, node.kind, node.spec.name, trace=traced)
        stats.taps = self.taps.get(node.name, stats.taps)  # the forward has none
        return stats
