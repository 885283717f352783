"""`runs list` and `runs show`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.cli.display.numbers import LEAST_USD, count
from engine.cli.display.refresh import refresh
from engine.cli.display.table import aligned, terminal_width
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.loading import load_plans
from engine.cli.options import DEFAULT_FILE, PlanOptions, RunsOptions
from engine.cli.state import run_id_of, store_of
from engine.contract.acks import Tally
from engine.contract.clock import SystemClock
from engine.dead_letters.replay import REPLAY_GROUP
from engine.errors import ConfigError, EngineError
from engine.execution.lease import living
from engine.plan.identity import difference
from engine.plan.model import Plan
from engine.state import DeadLetterFilter, Lease, RunRecord, RunStatus, StateStore
from engine.trial import reading_of, with_reading

KILLED = "killed"
"""Status of a run that is stored as running although no process works on it."""

IDLE = "between two chunks, paused, waiting for a worker, or its workflow was terminated"
"""Why a durable run has no worker."""

LEFT = frozenset({"run", "pipeline", "where", "started", "status", "error"})
DISPENSABLE = ("where", "attempt", "pipeline", "dropped", "started")
MIN_ERROR_WIDTH = 24  # columns of a terminal
SCREEN_MARGIN = 3  # the header, the count of shown runs, and the cursor's line


@dataclass(frozen=True, slots=True)
class Entry:
    """A run as the list shows it."""

    record: RunRecord
    tally: Tally
    lease: Lease | None

    @property
    def status(self) -> str:
        """The stored status, or `killed`."""
        # a durable run has no lease between two chunks
        if self.record.status is RunStatus.RUNNING and self.lease is None and not self.record.durable:
            return KILLED
        return str(self.record.status)

    @property
    def is_idle(self) -> bool:
        """Whether a durable run is stored as running and no worker works on it now."""
        return self.status == RunStatus.RUNNING and self.lease is None

    @property
    def status_shown(self) -> str:
        """The status for a table."""
        return f"{self.status}, no worker" if self.is_idle else self.status


@dataclass(frozen=True, slots=True)
class _Comparison:
    """How a run's plan differs from that of the current file. `note`: why they cannot be compared."""

    identity: Sequence[str] = ()
    operational: Sequence[str] = ()
    note: str = ""


async def list_runs(options: RunsOptions) -> int:
    """Print one line per run, once or until interrupted.

    Raises:
        ConfigError: the interval is too short.
    """
    async with store_of(options) as store:
        if options.watch:
            await refresh(lambda: _screen(store, options), options.interval)
        shown, found = await _find(store, options, options.limit)
    if options.json:
        for entry in shown:
            sys.stdout.write(json.dumps(_as_json(entry), ensure_ascii=False) + "\n")
    elif shown:
        width = terminal_width()
        sys.stdout.write(_text(shown, width))
    if len(shown) < found:
        sys.stderr.write(f"showing {count(len(shown))} of {count(found)}; use --limit 0 to show all\n")
    elif not found:
        sys.stderr.write("no runs\n")
    return ExitCode.COMPLETED


async def show_run(options: RunsOptions) -> int:
    """Print a run in detail.

    Raises:
        RunNotFoundError: no run has that id.
        ConfigError: the named file cannot be used.
    """
    async with store_of(options) as store:
        run_id = await run_id_of(store, options.run)
        entry = await entry_of(store, await store.get_run(run_id))
        splits = await store.count_splits(run_id)
        letters = await store.count_dead_letters(DeadLetterFilter(run_id=run_id, status="open"))
        paid = max(await store.journal_cost(run_id), entry.tally.cost_usd)
    comparison = _compare(entry.record, options)
    if options.json:
        document = {
            **_as_json(entry),
            "identity": entry.record.identity,
            "params": dict(entry.record.params),
            "seed": entry.record.seed,
            "splits": {"done": splits[0], "total": splits[1]},
            "dead_letters_open": letters,
            "paid_usd": paid,
            "changed": {"identity": list(comparison.identity), "operational": list(comparison.operational)},
            "lease": asdict(entry.lease) if entry.lease else None,
        }
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(printable("\n".join(_page(entry, splits, letters, paid, comparison)) + "\n"))
    return ExitCode.COMPLETED


async def entry_of(store: StateStore, record: RunRecord) -> Entry:
    """Return a run with its counts and the process that works on it."""
    lease = await living(store, SystemClock(), record.run_id)
    return Entry(record, await store.tally(record.run_id), lease)


async def _find(store: StateStore, options: RunsOptions, limit: int) -> tuple[list[Entry], int]:
    """Return the newest `limit` runs, or all with 0, and the total number."""
    found = await store.list_runs(pipeline=options.pipeline)
    if options.status:
        # whether a run is running or was killed is seen from its lease
        stored = str(RunStatus.RUNNING) if options.status == KILLED else options.status
        found = [run for run in found if run.status == stored]
        if stored == RunStatus.RUNNING:
            found = [run for run in found if (await entry_of(store, run)).status == options.status]
    shown = found[-limit:] if limit > 0 else found
    return [await entry_of(store, run) for run in shown], len(found)


async def _screen(store: StateStore, options: RunsOptions) -> str:
    """Return the newest runs that fit the terminal."""
    width, limit = 0, options.limit
    if sys.stdout.isatty():
        width, lines = shutil.get_terminal_size()
        fitting = max(1, lines - SCREEN_MARGIN)
        limit = min(limit, fitting) if limit > 0 else fitting
    shown, found = await _find(store, options, limit)
    if not shown:
        return "no runs\n"
    more = f"showing {count(len(shown))} of {count(found)}\n" if len(shown) < found else ""
    return _text(shown, width) + more


def _text(shown: Sequence[Entry], width: int) -> str:
    return printable("\n".join(_table(shown, width)) + "\n")


def _compare(record: RunRecord, options: RunsOptions) -> _Comparison:
    if record.group_id.startswith(REPLAY_GROUP):
        return _Comparison(note="the run was a replay of dead letters")
    named = options.file is not None
    file = options.file or DEFAULT_FILE
    if not named and not Path(file).exists():
        return _Comparison(note=f"no {file} here; name another file with --file")
    try:
        plan = _plan(record.pipeline, record.params, file)
        plan = with_reading(plan, reading_of(record.operational_doc))  # a limit is not of the file
    except EngineError as error:
        if named:
            raise
        return _Comparison(note=f"cannot use {file}: {str(error).splitlines()[0]}")
    return _Comparison(
        difference(record.identity_doc, plan.identity_doc),
        difference(record.operational_doc, plan.operational_doc),
    )


def _plan(pipeline: str, params: Mapping[str, object], file: str) -> Plan:
    plans = load_plans(PlanOptions(file=file), only=[pipeline], params={pipeline: dict(params)})
    if pipeline not in plans:
        raise ConfigError(f"{file} has no pipeline `{pipeline}`")
    return plans[pipeline]


def _table(entries: Sequence[Entry], width: int) -> list[str]:
    """Return a line for each run; beyond `width`, less important columns are dropped first, then error text.

    `width` 0: unlimited.
    """
    columns = {
        "run": [entry.record.run_id for entry in entries],
        "pipeline": [entry.record.pipeline for entry in entries],
        "where": ["temporal" if entry.record.durable else "local" for entry in entries],
        "started": [_moment(entry.record.started_at) for entry in entries],
        "status": [entry.status_shown for entry in entries],
        "attempt": [count(entry.record.attempt) for entry in entries],
    }
    counts = [_counts(entry.tally) for entry in entries]
    columns |= {name: [count(one[name]) for one in counts] for name in counts[0]}
    errors = [" ".join(entry.record.error.split()) for entry in entries]
    if any(errors):
        columns["error"] = errors
    for name in DISPENSABLE:
        if width and _width(columns) > width:
            del columns[name]
    right = [place for place, name in enumerate(columns) if name not in LEFT]
    lines = aligned([list(columns), *zip(*columns.values(), strict=True)], right=right)
    return [line[:width].rstrip() if width else line for line in lines]


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    """Return the width of the table with a minimum of error text."""
    widths = {name: max(len(name), *map(len, texts)) for name, texts in columns.items()}
    if "error" in widths:
        widths["error"] = min(widths["error"], MIN_ERROR_WIDTH)
    return sum(widths.values()) + 2 * (len(widths) - 1)


def _page(
    entry: Entry, splits: tuple[int, int], letters: int, paid: float, comparison: _Comparison
) -> Iterator[str]:
    record, tally = entry.record, entry.tally
    yield f"run {record.run_id}  ({entry.status_shown})"
    yield f"  pipeline      {record.pipeline}"
    yield f"  group         {record.group_id}"
    yield f"  started       {_moment(record.started_at)}"
    if record.ended_at:
        yield f"  ended         {_moment(record.ended_at)}"
    yield f"  attempt       {count(record.attempt)}"
    if entry.lease:
        yield f"  held by       {entry.lease.holder}, lease until {_moment(entry.lease.expires_at)}"
    if entry.is_idle:
        yield f"  held by       no worker: {IDLE}; `watch {record.run_id}` asks the server"
    if record.error:
        yield f"  error         {record.error}"
    yield f"  records       {', '.join(f'{name} {count(number)}' for name, number in _counts(tally).items())}"
    if tally.tokens_in or tally.tokens_out:
        tokens = f"{count(tally.tokens_in)} in, {count(tally.tokens_out)} out"
        yield f"  tokens        {tokens}, {tally.cost_usd:.4f} USD"
    if paid - tally.cost_usd >= LEAST_USD:
        yield f"  paid          {paid:.4f} USD, also for answers that no counted record uses"
    yield f"  splits        {count(splits[0])} of {count(splits[1])} done"
    yield f"  dead letters  {count(letters)} open"
    yield f"  seed          {record.seed}"
    yield f"  plan          {record.identity}"
    for name, value in record.params.items():
        yield f"  param         {name} = {json.dumps(value, ensure_ascii=False)}"
    yield from _differences(comparison)


def _differences(comparison: _Comparison) -> Iterator[str]:
    if comparison.note:
        yield f"  not compared with the file: {comparison.note}"
        return
    if not comparison.identity and not comparison.operational:
        yield "  the file compiles to the same plan"
    if comparison.identity:
        yield "  the file compiles to a different plan, so it cannot resume the run:"
        yield from (f"    {line}" for line in comparison.identity)
    if comparison.operational:
        yield "  settings that differ in the file:"
        yield from (f"    {line}" for line in comparison.operational)


def _as_json(entry: Entry) -> dict[str, object]:
    record = entry.record
    return {
        "run_id": record.run_id,
        "pipeline": record.pipeline,
        "group_id": record.group_id,
        "durable": record.durable,
        "status": entry.status,
        "has_worker": entry.lease is not None,
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "attempt": record.attempt,
        "error": record.error,
        "tally": asdict(entry.tally),
    }


def _counts(tally: Tally) -> dict[str, int]:
    return {"read": tally.read, "written": tally.written, "dropped": tally.dropped, "dead": tally.dead}


def _moment(text: str) -> str:
    """Format a moment: `2026-01-31 12:00:00`, in UTC."""
    return text[:19].replace("T", " ")
