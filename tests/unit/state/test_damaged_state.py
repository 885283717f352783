"""A state file with damaged bytes: reading gives an answer or a `StateError`, and never hangs."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.contract.acks import Tally
from engine.contract.dead_letter import DeadLetter
from engine.contract.split import Split
from engine.errors import RunNotFoundError, StateError
from engine.state.records import (
    BookmarkFilter,
    DeadLetterFilter,
    JournalFilter,
    Progress,
)
from engine.state.sqlite import FILE_NAME, SqliteStateStore
from engine.state.store import StateStore
from tests.examples import examples
from tests.unit.kernel.runs import record_of

RUN = "p-1"
LETTERS = [
    DeadLetter(
        run_id=RUN, pipeline="p", node="load", key=f"k{number}", stage="write", error_type="E",
        error_message="no", record={"id": number, "text": "x" * 200}, attempts=1,
        first_failed_at="2026-01-01T00:00:00Z", last_failed_at="2026-01-01T00:00:00Z",
    )
    for number in range(50)
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state file with a run, its splits, and dead letters."""
    directory = tmp_path_factory.mktemp("whole")

    async def fill() -> None:
        async with SqliteStateStore(directory) as store:
            await store.create_run(record_of(RUN))
            splits = [Split(f"s{number}", {"objects": [["a", "b", number]]}) for number in range(50)]
            await store.add_splits(RUN, "extract", splits, complete=True)
            done = [Progress("extract", one.key, 1, done=True, tally=Tally(read=1)) for one in splits]
            await store.commit(RUN, done)
            await store.put_dead_letters(LETTERS)

    anyio.run(fill)
    return directory / FILE_NAME


async def read_everything(store: StateStore) -> None:
    for run in await store.list_runs():
        await store.splits(run.run_id, "extract")
        await store.tally(run.run_id)
    await store.dead_letters(DeadLetterFilter())
    await store.notifications()
    await store.list_bookmarks(BookmarkFilter())
    await store.list_journal(JournalFilter())
    await store.update_run(RUN, status=(await store.get_run(RUN)).status)


@pytest.mark.slow
@given(
    places=st.lists(st.integers(0, 10**7), min_size=1, max_size=4),
    length=st.integers(1, 3_000),
    kept=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32),
)
@example(places=[32, 2026275], length=1, kept=0.0, seed=1)
@settings(max_examples=examples(200))
def test_damaged_bytes_are_an_error_of_the_state(
    whole: Path,
    tmp_path_factory: pytest.TempPathFactory,
    places: list[int],
    length: int,
    kept: float,
    seed: int,
) -> None:
    content, noise = bytearray(whole.read_bytes()), random.Random(seed)
    for place in places:
        start = place % len(content)
        content[start : start + length] = noise.randbytes(len(content[start : start + length]))
    if seed % 3 == 0:
        content = content[: int(len(content) * kept)]
    directory = tmp_path_factory.mktemp("damaged")
    (directory / FILE_NAME).write_bytes(content)
    anyio.run(_read_or_refuse, directory)


async def _read_or_refuse(directory: Path) -> None:
    with anyio.fail_after(300):
        try:
            async with SqliteStateStore(directory) as store:
                await read_everything(store)
        except (StateError, RunNotFoundError):
            pass


@pytest.mark.parametrize("table", ["runs", "splits", "progress", "dead_letters", "notifications"])
def test_a_damaged_name_of_a_column_is_an_error_of_the_state(whole: Path, tmp_path: Path, table: str) -> None:
    with closing(sqlite3.connect(whole)) as connection:
        names = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
    for name in names:
        directory = tmp_path / name
        directory.mkdir()
        (directory / FILE_NAME).write_bytes(whole.read_bytes())
        with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ?",
                (f"{name} ", f"{name[:-1]}\u00e9 ", table),
            )
            connection.commit()
        anyio.run(_read_or_refuse, directory)
