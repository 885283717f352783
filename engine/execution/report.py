"""The report of a run: counts from the ledger, times from its stats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.contract.acks import Tally
from engine.contract.types import JsonValue
from engine.contract.verification import Check
from engine.flow.stats import NodeSnapshot
from engine.state.protocol import RunStatus

__all__ = ["RunReport"]


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of one pipeline.

    Attributes:
        tally: from the ledger, over all attempts of the run.
        seconds: of this attempt.
        error: why it ended early, "" when it did not. `failure` has the exception.
        bottleneck: the node whose workers were busiest, None when nothing happened.
        dead_letters: how many letters of this run are open in the state store.
        checks: what was compared, when the run was to be verified.
        stored: the tally is the ledger's. When the state store failed, it is what this process has counted,
            which includes records that are neither delivered nor given up.
    """

    pipeline: str
    run_id: str
    status: RunStatus
    tally: Tally
    seconds: float
    nodes: Sequence[NodeSnapshot] = ()
    bottleneck: NodeSnapshot | None = None
    error: str = ""
    failure: BaseException | None = field(default=None, repr=False, compare=False)
    dead_letters: int = 0
    peak_bytes: int = 0
    attempt: int = 1
    checks: Sequence[Check] = ()
    stored: bool = True

    @property
    def ok(self) -> bool:
        """Whether the run completed; dead letters within the limit do not matter."""
        return self.status is RunStatus.COMPLETED

    @property
    def verified(self) -> bool | None:
        """Whether all compared counts agree; None if the run was not verified."""
        return all(check.passed for check in self.checks) if self.checks else None

    def to_json(self) -> dict[str, JsonValue]:
        """Return the report in the form of `--report`."""
        return {
            "run_id": self.run_id,
            "status": str(self.status),
            "seconds": round(self.seconds, 6),
            "attempt": self.attempt,
            "tally": self.tally.to_json(),
            "balanced": self.tally.balanced,
            "stored": self.stored,
            "dead_letters": self.dead_letters,
            "peak_bytes_in_flight": self.peak_bytes,
            "bottleneck": self.bottleneck.name if self.bottleneck else None,
            "error": self.error,
            "verified": self.verified,
            "checks": [check.to_json() for check in self.checks],
            "nodes": {node.name: _node_json(node) for node in self.nodes},
        }


def _node_json(node: NodeSnapshot) -> dict[str, JsonValue]:
    return {
        "kind": str(node.kind),
        "component": node.component,
        "records_in": node.records_in,
        "records_out": node.records_out,
        "dropped": node.dropped,
        "dead": node.dead,
        "retries": node.retries,
        "utilisation": round(node.utilisation, 4),
        **({"numbers": dict(node.aggregate)} if node.aggregate else {}),
    }
