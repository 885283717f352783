"""The report of a run: counts from the ledger, times from its stats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from engine.contract.acks import Tally
from engine.contract.types import JsonValue, Record
from engine.contract.verification import Check
from engine.errors import ConfigError
from engine.extras import install_command
from engine.flow.stats import NodeSnapshot
from engine.state.records import DeadLetterFilter, RunRecord, RunStatus
from engine.state.store import StateStore

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]

_ROUNDING = 1e-9  # USD


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run of one pipeline.

    Attributes:
        tally: from the ledger, over all attempts of the run.
        unsettled: delivered and paid for by this process in batches that are not complete, and so not in
            the tally; a resume counts them.
        seconds: duration of this attempt.
        error: why it ended early; "" if it did not. `failure` has the exception.
        bottleneck: the node with the busiest workers; None when nothing happened.
        dead_letters: number of open dead letters of this run in the state store.
        first_dead_letter: where and why the first of them died.
        checks: the comparisons, if the run was verified.
        stored: the tally is from the ledger. If the state store failed, it is this process's count, which
            includes records that are neither delivered nor given up.
        journal_usd: USD that all attempts of the run have paid for answers, according to the journal.
        forward: the sink that receives copies of the dead letters.
        output: records of collecting sinks, by node; see `records` and `table`.
    """

    pipeline: str
    run_id: str
    status: RunStatus
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    nodes: Sequence[NodeSnapshot] = ()
    bottleneck: NodeSnapshot | None = None
    error: str = ""
    failure: BaseException | None = field(default=None, repr=False, compare=False)
    dead_letters: int = 0
    first_dead_letter: str = ""
    peak_bytes: int = 0
    attempt: int = 1
    checks: Sequence[Check] = ()
    stored: bool = True
    unsettled: Tally = field(default_factory=Tally)
    journal_usd: float = 0.0
    forward: NodeSnapshot | None = None
    output: Mapping[str, Sequence[Record]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        """Whether the run completed; dead letters within the limit do not matter."""
        return self.status is RunStatus.COMPLETED

    @property
    def unused_usd(self) -> float:
        """USD paid for answers that no counted record uses: the prompt or the schema has changed since.

        Answers of an attempt that was killed are among them until a resume uses them.
        """
        unused = self.journal_usd - self.tally.cost_usd - self.unsettled.cost_usd
        return unused if unused > _ROUNDING else 0.0

    @property
    def paid_usd(self) -> float:
        """USD paid by all attempts: of the tally, of `unsettled`, and unused."""
        return self.tally.cost_usd + self.unsettled.cost_usd + self.unused_usd

    @property
    def verified(self) -> bool | None:
        """Whether all compared counts agree; None if the run was not verified."""
        return all(check.passed for check in self.checks) if self.checks else None

    def records(self, node: str) -> list[Record]:
        """Return the records of the `memory` sink of this name, in order.

        Raises:
            ConfigError: there is no such sink in the run.
        """
        if node not in self.output:
            kept = ", ".join(self.output) or "none"
            raise ConfigError(
                f"no sink {node!r} keeps its records (known: {kept}): use `sink: memory` for it"
            )
        return list(self.output[node])

    def table(self, node: str) -> pyarrow.Table:
        """Return the records of the `memory` sink of this name as a pyarrow table.

        It has a column for each field of any record. `.to_pandas()` converts it to a data frame.

        Raises:
            ConfigError: there is no such sink in the run, pyarrow is not installed, or the values of a field
                cannot be one column.
        """
        from engine.dead_letters.queue import as_json

        rows = [as_json(record)[0] for record in self.records(node)]
        try:
            import pyarrow
        except ImportError:
            raise ConfigError(f"a table needs pyarrow: {install_command(['parquet'])}") from None
        columns: dict[str, Any] = {}
        for name in dict.fromkeys(name for row in rows for name in row):
            try:
                columns[name] = pyarrow.array([row.get(name) for row in rows])
            except (pyarrow.ArrowException, OverflowError):
                raise ConfigError(
                    f"the values of {name!r} cannot be one column, because they differ in type or have too "
                    f"many digits: convert them before the sink {node!r}, or use `report.records({node!r})`"
                ) from None
        return pyarrow.table(columns)

    def _repr_html_(self) -> str:
        """Show the report in a notebook: its counts, and a row for each node."""
        tally = self.tally
        counts = (
            f"read {tally.read:,}, written {tally.written:,}, dropped {tally.dropped:,}, dead {tally.dead:,}"
        )
        rows = "".join(
            f"<tr><td>{escape(node.name)}</td><td>{escape(node.component)}</td><td>{node.records_in:,}</td>"
            f"<td>{node.records_out:,}</td><td>{node.dropped:,}</td><td>{node.dead:,}</td></tr>"
            for node in self.nodes
        )
        error = f"<p><b>{escape(self.error)}</b></p>" if self.error else ""
        return (
            f"<p><b>{escape(self.pipeline)}</b>: {self.status} in {self.seconds:.2f} s: {counts}</p>{error}"
            "<table><tr><th>node</th><th>component</th><th>in</th><th>out</th><th>dropped</th><th>dead</th>"
            f"</tr>{rows}</table>"
        )

    def to_json(self) -> dict[str, JsonValue]:
        """Return the report in the form of `--report`."""
        return {
            "run_id": self.run_id,
            "status": str(self.status),
            "seconds": round(self.seconds, 6),
            "attempt": self.attempt,
            "tally": self.tally.to_json(),
            "unsettled": self.unsettled.to_json(),
            "paid_usd": self.paid_usd,
            "unused_usd": self.unused_usd,
            "balanced": self.tally.balanced,
            "stored": self.stored,
            "dead_letters": self.dead_letters,
            "first_dead_letter": self.first_dead_letter,
            "peak_bytes_in_flight": self.peak_bytes,
            "bottleneck": self.bottleneck.name if self.bottleneck else None,
            "error": self.error,
            "verified": self.verified,
            "checks": [check.to_json() for check in self.checks],
            "nodes": {node.name: _node_json(node) for node in self.nodes},
        }


async def stored_report(
    store: StateStore, record: RunRecord, status: RunStatus, error: str, tally: Tally, seconds: float
) -> RunReport:
    """Return the report of an ended run whose nodes are unknown. Raises `StateError`."""
    is_open = DeadLetterFilter(record.run_id, status="open")
    return RunReport(
        record.pipeline,
        record.run_id,
        status,
        tally,
        seconds,
        error=error,
        dead_letters=await store.count_dead_letters(is_open),
        attempt=record.attempt,
        journal_usd=await store.journal_cost(record.run_id),
    )


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
