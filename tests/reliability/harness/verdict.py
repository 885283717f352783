"""Compare the actual with the expected state; every difference is one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from engine.contract.types import JsonValue
from tests.reliability.harness.evidence import (
    EngineState,
    Evidence,
    LedgerRun,
    Row,
    ServiceRecords,
    stable,
)
from tests.reliability.harness.forecast import KINDS, Expected, expected, letter_key
from tests.reliability.harness.outcome import PaidSoFar
from tests.reliability.harness.workload import Workload

__all__ = ["differences", "left_in_flight", "paid_twice"]

SHOWN = 3  # examples in a line


def differences(workload: Workload, found: Evidence, undisturbed: Evidence) -> list[str]:
    """Return everything lost, duplicated or altered; empty if nothing is wrong."""
    runs = {run.pipeline: run for run in found.runs}
    missing = [name for name in workload.pipelines if name not in runs]
    if missing:
        return [f"never run: {', '.join(missing)}"]
    wanted = expected(workload, runs, undisturbed)
    return [*_runs(workload, found.runs, wanted), *_warehouse(found, wanted), *_letters(found, wanted)]


def left_in_flight(state: EngineState, service: ServiceRecords) -> list[str]:
    """What a drained process has left neither delivered and counted nor unread; empty when nothing."""
    problems: list[str] = []
    for run in state.runs:
        if run.status not in ("interrupted", "completed"):
            problems.append(f"{run.run_id}: {run.status} instead of interrupted")
        if not run.balanced:
            problems.append(f"{run.run_id}: not everything that was read is settled: {run.tally}")
        table = KINDS[run.pipeline].table if run.pipeline in KINDS else "Medical"
        letters = sum(letter["pipeline"] == run.pipeline for letter in state.letters)
        for what, found, counted in (
            (f"rows in {table}", len(service.tables[table]), run.tally["written"]),
            ("dead letters", letters, run.tally["dead"]),
        ):
            if found != counted:
                problems.append(f"{run.run_id}: {found} {what}, the ledger counts {counted}")
    return problems


def paid_twice(marks: Sequence[PaidSoFar], in_flight: int, damaged: int) -> list[str]:
    """Payments for what was in the journal already.

    Args:
        marks: taken before the first process, whenever one had ended, and at the end.
        in_flight: for how many documents a process that ends early may have been asking.
        damaged: documents paid for, and lost on the way back.
    """
    problems: list[str] = []
    for before, after in pairwise(marks):
        paid, kept = after.documents - before.documents, after.journaled - before.journaled
        again = paid - kept - damaged - (in_flight if after.interrupted else 0)
        if again > 0:
            problems.append(f"{again} documents were paid for again whose answers were in the journal")
    return problems


def _runs(workload: Workload, runs: Sequence[LedgerRun], wanted: Expected) -> Iterator[str]:
    for name, count in Counter(run.pipeline for run in runs).items():
        if count > 1:
            yield f"{name}: {count} runs instead of one that was resumed"
    for run in runs:
        if run.status != "completed":
            yield f"{run.run_id}: {run.status} instead of completed"
        if not run.balanced:
            yield f"{run.run_id}: its tally does not add up: {run.tally}"
        if run.pipeline not in workload.pipelines:
            yield f"{run.run_id}: it was not asked for"
            continue
        for field, value in wanted.tallies[run.pipeline].items():
            if run.tally[field] != value:
                yield f"{run.run_id}: {field} is {run.tally[field]}, undisturbed it is {value}"


def _warehouse(found: Evidence, wanted: Expected) -> Iterator[str]:
    for table, rows in found.service.tables.items():
        yield from _compared(
            f"table {table}",
            [(str(row["id"]), stable(row)) for row in rows],
            wanted.tables.get(table, {}),
        )
    for table, (rows_in_file, ids) in found.raw.items():
        if rows_in_file != ids:
            yield f"table {table}: {rows_in_file} rows of {ids} ids in the file"


def _letters(found: Evidence, wanted: Expected) -> Iterator[str]:
    copies = [(f"{copy['model']} {copy['record_id']}", _named(copy)) for copy in found.service.letters]
    yield from _compared("dead letters of the service", copies, wanted.service_letters)
    letters = [(letter_key(letter), stable(letter)) for letter in found.letters]
    yield from _compared("dead letters of the engine", letters, wanted.engine_letters)


def _named(copy: Row) -> JsonValue:
    return stable({name: item for name, item in copy.items() if name != "dead_letter_id"})


def _compared(
    what: str, found: Sequence[tuple[str, JsonValue]], wanted: Mapping[str, JsonValue]
) -> Iterator[str]:
    times = Counter(name for name, _ in found)
    doubled = [name for name, count in times.items() if count > 1]
    lost = [name for name in wanted if name not in times]
    strange = [name for name in times if name not in wanted]
    altered = [
        f"{name}: {_change(value, wanted[name])}"
        for name, value in found
        if name in wanted and value != wanted[name]
    ]
    for fate, names in (("doubled", doubled), ("lost", lost), ("too many", strange), ("altered", altered)):
        if names:
            yield f"{what}: {len(names)} {fate}, such as {'; '.join(names[:SHOWN])}"


def _change(found: JsonValue, wanted: JsonValue) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        return ", ".join(
            f"{name} is {str(found.get(name))[:80]!r} instead of {str(wanted.get(name))[:80]!r}"
            for name in names
        )
    return f"{found!r} instead of {wanted!r}"
