"""The identity and the resources of one attempt of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel

from engine.contract.chunk import Chunk
from engine.contract.clock import Clock
from engine.contract.lease import Lease, NoLease
from engine.contract.shared import Shared
from engine.execution.events import Observer
from engine.execution.journal import Journal
from engine.flow.budget import ByteBudget
from engine.flow.tracing import RunTrace
from engine.plan.model import PlanNode
from engine.state.store import StateStore

DRAIN_LIMIT = 30.0  # seconds; usual grace period of process supervisors

Connect = Callable[[PlanNode], BaseModel | None]


@dataclass(slots=True)
class RunnerResources:
    """Resources that the engine gives to a run."""

    store: StateStore
    journal: Journal
    budget: ByteBudget
    clock: Clock
    connect: Connect
    drain_limit: float = DRAIN_LIMIT
    shared: Shared = field(default_factory=Shared)
    tell: Observer | None = None
    trace: RunTrace | None = None
    lease: Lease = field(default_factory=NoLease)


@dataclass(slots=True)
class RunIdentity:
    """The identity of a run over all its attempts, and the current attempt.

    `epoch` is that of the lease; attempts are counted from 1. `chunk`: the part of the run processed here;
    None for the whole run.
    """

    run_id: str
    seed: str
    started_at: datetime
    resumed: bool = False
    epoch: int = 0
    attempt: int = 1
    chunk: Chunk | None = None

    @property
    def chunk_name(self) -> str:
        """The name of the part of the run processed here; "" for the whole run."""
        return self.chunk.name if self.chunk is not None else ""
