"""Start and list runs over HTTP. The service accesses pipelines only through a `RunHost`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

__all__ = ["HostedRun", "RunHost", "RunStartError", "RunState", "StartedRun"]

RunState = Literal["RUNNING", "COMPLETED", "FAILED", "CANCELED", "TERMINATED"]


@dataclass(frozen=True, slots=True)
class StartedRun:
    """A started run. `workflow_id` names the pipeline, and its parameters, if any were given."""

    pipeline: str
    workflow_id: str
    run_id: str
    params: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class HostedRun:
    """A run, in progress or ended. Times have a time zone."""

    pipeline: str
    workflow_id: str
    run_id: str
    state: RunState
    started_at: datetime
    ended_at: datetime | None
    error: str = ""


class RunStartError(Exception):
    """A run could not be started. `is_callers`: the request is at fault, not the service."""

    def __init__(self, message: str, *, is_callers: bool = False) -> None:
        super().__init__(message)
        self.is_callers = is_callers


class RunHost(Protocol):
    """Has pipelines, and runs them."""

    def parameters(self, name: str) -> Collection[str] | None:
        """Return the names of a pipeline's parameters; None when no pipeline has this name or alias."""
        ...

    async def start(self, name: str, params: Mapping[str, str]) -> StartedRun:
        """Start a run and return once it is in the state store. Raises RunStartError."""
        ...

    async def list_runs(self, limit: int, states: Collection[RunState] = ()) -> list[HostedRun]:
        """Return the latest runs, newest first, in one of these `states`."""
        ...

    async def terminate(self, name: str) -> HostedRun | None:
        """End the latest unfinished run of a workflow or pipeline; return None when there is none."""
        ...
