"""Events for tracers: the begin and end of a run, and a node's work on a batch; never a record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from inspect import isawaitable
from typing import Any, Protocol

from engine.contract.batch import Batch


class NodeTrace(Protocol):
    """A node of a run."""

    def begin(self, records: int) -> Callable[[BaseException | None], None]:
        """Note the start of work on a batch; call the returned function at its end, with any error."""


class RunTrace(Protocol):
    """One attempt of a run."""

    def begin(self) -> None:
        """Note that the attempt begins."""

    def node(self, name: str, component: str) -> NodeTrace:
        """Return the trace of a node, for the duration of the attempt."""

    def end(self, status: str, numbers: Mapping[str, Mapping[str, float]]) -> None:
        """Note that the attempt has ended, with the numbers of each node by name."""


class Tracer(Protocol):
    """Creates the traces of runs."""

    def run(self, pipeline: str, run_id: str, attempt: int) -> RunTrace:
        """Return the trace of an attempt that is about to begin."""


def traced(work: Callable[[Batch], Any], trace: NodeTrace | None) -> Callable[[Batch], Any]:
    """Return a function that does this work and reports to the trace; without a trace, the work itself."""
    if trace is None:
        return work

    def run(batch: Batch) -> Any:
        end = trace.begin(len(batch.records))
        try:
            made = work(batch)
        except BaseException as error:
            end(error)
            raise
        if isawaitable(made):
            return _finished(made, end)
        end(None)
        return made

    return run


async def _finished(made: Awaitable[Any], end: Callable[[BaseException | None], None]) -> Any:
    try:
        result = await made
    except BaseException as error:
        end(error)
        raise
    end(None)
    return result
