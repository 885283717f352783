"""Events of the nodes of a run: one when a node receives its first records, one at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio

from engine.contract.component import Kind
from engine.execution.events import Observer, RunEvent, null_observer
from engine.flow.stats import NodeSnapshot, NodeStats

LOOK_EVERY = 0.5


class NodeEvents:
    """Reports when nodes begin and end.

    Args:
        pipeline, run_id: the pipeline and run of the nodes.
        chunk: the part of the run that this process works on; "" for the whole run.
        tell: receives the events.
    """

    def __init__(self, pipeline: str, run_id: str, chunk: str, tell: Observer | None) -> None:
        self._pipeline = pipeline
        self._run_id = run_id
        self._chunk = chunk
        self._tell = tell or null_observer
        self._begun: set[str] = set()

    async def watch(self, nodes: Callable[[], Collection[NodeStats]]) -> None:
        """Poll until cancelled; the nodes do not report themselves, which would slow their work."""
        while self._tell is not null_observer:
            for node in nodes():
                if (node.records_in or node.records_out) and node.name not in self._begun:
                    self._begun.add(node.name)
                    self._say(node.name, "started", f"{node.kind} {_called(node)} started", "info", {})
            await anyio.sleep(LOOK_EVERY)

    def end(self, nodes: Collection[NodeSnapshot]) -> None:
        """Report the final counts of each node."""
        for node in nodes if self._tell is not null_observer else ():
            if node.records_in or node.records_out:
                message, level, numbers = finished(node)
                self._say(node.name, "finished", message, level, numbers)

    def _say(self, node: str, what: str, message: str, level: str, numbers: dict[str, int | float]) -> None:
        message = f"{self._chunk}: {message}" if self._chunk else message
        self._tell(RunEvent(f"{node}_{what}", message, level, self._pipeline, self._run_id, numbers))


def finished(node: NodeSnapshot) -> tuple[str, str, dict[str, int | float]]:
    """Return message, level and numbers of a node at its end; a warning if records died there."""
    numbers: dict[str, int | float] = {
        "records_in": node.records_in,
        "records_out": node.records_out,
        "dropped": node.dropped,
        "dead": node.dead,
        "retries": node.retries,
    }
    own = {name: round(value, 6) for name, value in node.aggregate.items() if name not in numbers}
    if node.kind is Kind.SOURCE:
        message = f"{_called(node)}: {node.records_out or node.records_in:,} records read"
    else:
        message = f"{_called(node)}: {node.records_in:,} records in, {node.records_out:,} out"
    if node.dropped:
        message += f", {node.dropped:,} dropped"
    if node.dead:
        message += f", {node.dead:,} dead"
    return message, "warning" if node.dead else "info", {**numbers, **own}


def _called(node: NodeStats | NodeSnapshot) -> str:
    """Return the node's name, with its kind unless the name includes it."""
    return node.name if node.name == node.component else f"{node.name} ({node.component})"
