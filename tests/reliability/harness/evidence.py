"""The evidence of a run: warehouse, dead letters on both sides, ledger, and paid model calls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import anyio
import httpx

from engine.contract.types import JsonValue
from engine.dead_letters.queue import letter_json
from engine.errors import StateError
from engine.service.discovery import warehouse_file
from engine.state import DeadLetterFilter, JournalFilter, open_store

__all__ = [
    "TABLES",
    "EngineState",
    "Evidence",
    "LedgerRun",
    "Paid",
    "ServiceRecords",
    "paid",
    "raw_counts",
    "read_service",
    "read_state",
    "stable",
]

Row: TypeAlias = dict[str, JsonValue]

TABLES = {
    "Blob": "getBlobs",
    "Log": "getLogs",
    "Event": "getEvents",
    "UnstructuredData": "getUnstructuredData",
    "Medical": "getMedical",
}
"""The warehouse's tables, and the API that shows each."""

OF_THE_ATTEMPT = frozenset(
    {
        "attempts",
        "failed_at",
        "first_failed_at",
        "last_failed_at",
        "processed_at",
        "run",
        "run_id",
        "transform_timestamp",
    }
)
"""Fields that say when, or in which attempt, and so differ from run to run."""


@dataclass(frozen=True)
class LedgerRun:
    """A run in the engine's state, with its tally as committed."""

    run_id: str
    pipeline: str
    seed: str
    started_at: str
    status: str
    attempt: int
    tally: dict[str, JsonValue]
    balanced: bool


@dataclass(frozen=True)
class EngineState:
    """A state directory: runs, oldest first, dead letters, and how many answers are in the journal."""

    runs: list[LedgerRun] = field(default_factory=list)
    letters: list[Row] = field(default_factory=list)
    journaled: int = 0


@dataclass(frozen=True)
class ServiceRecords:
    """What the ingest service shows: rows by table, and its own dead letters."""

    tables: dict[str, list[Row]]
    letters: list[Row]


@dataclass(frozen=True)
class Paid:
    """What the model's stand-in has been paid for since it was started, and what it is busy with."""

    calls: int
    documents: int
    tokens: int
    in_flight: int = 0

    def since(self, before: Paid) -> Paid:
        """What was paid after `before`."""
        return Paid(self.calls - before.calls, self.documents - before.documents, self.tokens - before.tokens)


@dataclass(frozen=True)
class Evidence:
    """Everything. `raw` has the number of rows and of ids in each table of the warehouse's file."""

    service: ServiceRecords
    runs: list[LedgerRun]
    letters: list[Row]
    raw: dict[str, tuple[int, int]] = field(default_factory=dict)


def stable(value: JsonValue) -> JsonValue:
    """The value without what differs between two runs that do the same."""
    if isinstance(value, Mapping):
        kept = {key: stable(item) for key, item in value.items() if key not in OF_THE_ATTEMPT}
        body = kept.get("extracted_data")
        if isinstance(body, str) and body.startswith('{"error"'):  # a forwarded dead letter
            kept["extracted_data"] = stable(json.loads(body))
        return kept
    if isinstance(value, list):
        return [stable(item) for item in value]
    return value


def read_service(url: str) -> ServiceRecords:
    """Ask a running service for everything it has."""
    with httpx.Client(base_url=url, timeout=300) as client:
        tables = {table: _items(client, f"/consumption/{api}") for table, api in TABLES.items()}
        return ServiceRecords(tables, _items(client, "/dead-letters"))


def _items(client: httpx.Client, path: str) -> list[Row]:
    answer = client.get(path, params={"limit": "1000000"}).raise_for_status().json()
    items: list[Row] = answer["items"]
    if answer["total"] != len(items):
        raise AssertionError(f"{path} says {answer['total']} and shows {len(items)}")
    return items


def raw_counts(state_dir: Path) -> dict[str, tuple[int, int]]:
    """Rows and different ids in each table of a warehouse that no process has open."""
    import duckdb

    with duckdb.connect(str(warehouse_file(state_dir)), read_only=True) as connection:
        counts = {}
        for table in TABLES:
            row = connection.execute(f'SELECT count(*), count(DISTINCT id) FROM "{table}"').fetchone()
            assert row is not None, "an aggregate has one row"
            counts[table] = (int(row[0]), int(row[1]))
        return counts


def read_state(state_dir: Path | str) -> EngineState:
    """What a state directory holds, or a database; nothing when there is none. No process may have it open.

    Of a directory a copy is read: opening the store would tidy up what a killed process has left, and that
    is for the next attempt to do.
    """
    if isinstance(state_dir, str):
        return anyio.run(_read_state, state_dir)
    files = [path for path in state_dir.glob("state.sqlite3*") if not path.name.endswith("-shm")]
    if not files:
        return EngineState()
    with TemporaryDirectory(prefix="state-") as folder:
        for path in files:
            shutil.copy(path, folder)
        try:
            return anyio.run(_read_state, Path(folder))
        except StateError as error:
            raise AssertionError(f"the state store cannot be read after a kill: {error}") from error


async def _read_state(state_dir: Path | str) -> EngineState:
    runs: list[LedgerRun] = []
    async with open_store(state_dir, create=False) as store:
        for run in await store.list_runs():
            tally = await store.tally(run.run_id)
            runs.append(
                LedgerRun(
                    run.run_id,
                    run.pipeline,
                    run.seed,
                    run.started_at,
                    str(run.status),
                    run.attempt,
                    dict(tally.to_json()),
                    tally.balanced,
                )
            )
        letters = [dict(letter_json(letter)) for letter in await store.dead_letters(DeadLetterFilter())]
        return EngineState(runs, letters, len(await store.list_journal(JournalFilter())))


def paid(llm_base_url: str) -> Paid:
    """Ask the stand-in."""
    stats = httpx.get(llm_base_url.removesuffix("/v1") + "/stats").raise_for_status().json()
    tokens = stats["prompt_tokens"] + stats["completion_tokens"]
    return Paid(stats["answered"], stats["documents"], tokens, stats["in_flight"])
