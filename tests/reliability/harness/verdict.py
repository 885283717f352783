"""Compares what is there with what has to be there; every difference is one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from engine.batch import JsonValue
from tests.reliability.harness.evidence import Evidence, LedgerRun, Row, stable
from tests.reliability.harness.forecast import Expected, expected, letter_key
from tests.reliability.harness.workload import Workload

__all__ = ["differences"]

SHOWN = 3  # examples in a line


def differences(workload: Workload, found: Evidence, undisturbed: Evidence) -> list[str]:
    """Everything lost, doubled or altered; empty when all is as if nothing had happened."""
    runs = {run.pipeline: run for run in found.runs}
    missing = [name for name in workload.pipelines if name not in runs]
    if missing:
        return [f"never run: {', '.join(missing)}"]
    wanted = expected(workload, runs, undisturbed)
    return [*_runs(workload, found.runs, wanted), *_warehouse(found, wanted), *_letters(found, wanted)]


def _runs(workload: Workload, runs: Sequence[LedgerRun], wanted: Expected) -> Iterator[str]:
    for name, count in Counter(run.pipeline for run in runs).items():
        if count > 1:
            yield f"{name}: {count} runs instead of one that was gone on with"
    for run in runs:
        if run.status != "completed":
            yield f"{run.run_id}: {run.status} instead of completed"
        if not run.balanced:
            yield f"{run.run_id}: its tally does not add up: {run.tally}"
        if run.pipeline not in workload.pipelines:
            yield f"{run.run_id}: nobody asked for it"
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
