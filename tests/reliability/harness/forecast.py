"""The expected final state.

For the simulated pipelines it is worked out from the run's seed and start, without running anything: the
records themselves, which of them are marked, and so every row and every dead letter. For the documents it
is what an undisturbed run has left, but for times and attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from connectors.simulated import BlobConnector, EventsConnector, LogsConnector, SimulatedParams
from connectors.simulated.source import SEEDED_TIME
from connectors.transforms import FailurePattern
from engine.contract.types import JsonValue
from tests.reliability.harness.evidence import Evidence, LedgerRun, Row, stable
from tests.reliability.harness.workload import SIMULATED, Workload

__all__ = ["KINDS", "Expected", "expected", "letter_key"]


@dataclass(frozen=True)
class _Kind:
    source: type[BlobConnector] | type[LogsConnector] | type[EventsConnector]
    model: str
    table: str
    marked: str


KINDS: Mapping[str, _Kind] = {
    "blobs": _Kind(BlobConnector, "BlobSource", "Blob", "file_name"),
    "logs": _Kind(LogsConnector, "LogSource", "Log", "message"),
    "events": _Kind(EventsConnector, "EventSource", "Event", "distinct_id"),
}
DOCUMENT_TABLES = ("UnstructuredData", "Medical")
FORWARDED = "UnstructuredDataSource"


@dataclass
class Expected:
    """Rows by table and id, dead letters by what names them, tallies by pipeline; all `stable`."""

    tables: dict[str, dict[str, JsonValue]] = field(default_factory=dict)
    service_letters: dict[str, JsonValue] = field(default_factory=dict)
    engine_letters: dict[str, JsonValue] = field(default_factory=dict)
    tallies: dict[str, dict[str, JsonValue]] = field(default_factory=dict)


def letter_key(letter: Row) -> str:
    """What names a dead letter of the engine."""
    return f"{letter['pipeline']} {letter['node']} {letter['key']}"


def expected(workload: Workload, runs: Mapping[str, LedgerRun], undisturbed: Evidence) -> Expected:
    """What `runs` (by pipeline) of this workload have to leave."""
    result = Expected()
    for name in workload.pipelines:
        if name in SIMULATED:
            _simulated(result, workload, runs[name])
        else:
            _documents(result, undisturbed, name)
    return result


def _simulated(result: Expected, workload: Workload, run: LedgerRun) -> None:
    kind, count = KINDS[run.pipeline], workload.records
    seed = str(workload.seed) if workload.seed is not None else f"{run.seed}:{run.pipeline}:extract"
    source = kind.source(SimulatedParams(records=count))
    # its own seed fixes the times too
    base_time = SEEDED_TIME if workload.seed is not None else datetime.fromisoformat(run.started_at)
    records = source.generate(seed, 0, count, base_time)
    marks = FailurePattern(workload.fail_percentage, run.seed).is_failure(range(count))
    rows = result.tables.setdefault(kind.table, {})
    for ordinal, (record, fails) in enumerate(zip(records, marks, strict=True)):
        identity = str(record["id"])
        if not fails:
            rows[identity] = record
            continue
        marked = {**record, kind.marked: f"[DLQ]{record[kind.marked]}"}
        error = {
            "error_type": "MarkedAsFailure",
            "error_message": f"{kind.marked} starts with [DLQ]: the record is marked as a failure",
            "status": "open",
        }
        letter: Row = {"pipeline": run.pipeline, "node": "load", "key": f"{seed}/{ordinal}"}
        letter |= {"stage": "service", "record": marked, "reference": "", "reason": "", **error}
        result.engine_letters[letter_key(letter)] = letter
        copy: Row = {
            "model": kind.model,
            "record_id": identity,
            "original_record": marked,
            "source": "transform",
        }
        copy |= {"pipeline": run.pipeline, "node": "load", "key": None, "reason": None}
        copy |= {"source": "transform"}
        result.service_letters[f"{kind.model} {identity}"] = {**copy, **error}
    dead = sum(marks)
    result.tallies[run.pipeline] = {"read": count, "written": count - dead, "dead": dead, "dropped": 0}


def _documents(result: Expected, undisturbed: Evidence, pipeline: str) -> None:
    for table in DOCUMENT_TABLES:
        rows = undisturbed.service.tables[table]
        result.tables[table] = {str(row["id"]): stable(row) for row in rows}
    for copy in undisturbed.service.letters:
        if copy["model"] == FORWARDED:
            result.service_letters[f"{FORWARDED} {copy['record_id']}"] = _anonymous(copy)
    for letter in undisturbed.letters:
        if letter["pipeline"] == pipeline:
            result.engine_letters[letter_key(letter)] = stable(letter)
    (run,) = [run for run in undisturbed.runs if run.pipeline == pipeline]
    result.tallies[pipeline] = {
        name: run.tally[name] for name in ("read", "written", "dead", "dropped", "drops")
    }


def _anonymous(copy: Row) -> JsonValue:
    value = stable(copy)
    assert isinstance(value, dict)
    return {name: item for name, item in value.items() if name != "dead_letter_id"}
