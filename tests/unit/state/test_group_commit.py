"""Concurrent writes are committed together, with guarantees for each, on both backends."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from threading import Event

import anyio
import anyio.to_thread
import pytest

from engine.errors import LeaseLostError, StateError, StateFullError
from engine.state.connection import Connection
from engine.state.database import SqliteDatabase

pytestmark = pytest.mark.anyio

LONG = 300


class Notes:
    """A store of numbers with a database that can be kept busy."""

    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database
        self.statements: list[str] = []
        self.returned: list[int] = []

    async def put(self, *numbers: int, then: Exception | None = None) -> None:
        await self.database.write(_insert, numbers, then)
        self.returned.append(numbers[0])

    def on_disk(self) -> list[int]:
        """As another process sees it, in the order of writing."""
        with closing(sqlite3.connect(self.database.path)) as other:
            return [number for (number,) in other.execute("SELECT number FROM notes ORDER BY rowid")]

    def count(self, word: str) -> int:
        return sum(statement.startswith(word) for statement in self.statements)

    @asynccontextmanager
    async def together(self, *tasks: Callable[[], Awaitable[object]]) -> AsyncIterator[anyio.CancelScope]:
        """Has these come in this order while the thread is busy; they have ended when the block has.

        Gives the scope of the first, which can be cancelled while all of them wait.
        """
        busy, go_on = Event(), Event()

        def occupy(_: Connection) -> None:
            busy.set()
            assert go_on.wait(LONG)

        first = anyio.CancelScope()

        async def run(task: Callable[[], Awaitable[object]], scope: anyio.CancelScope) -> None:
            with scope:
                await task()

        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as group:
                try:
                    group.start_soon(self.database.read, occupy)
                    assert await anyio.to_thread.run_sync(busy.wait, LONG)
                    self.statements.clear()
                    thread = self.database._thread
                    assert thread is not None
                    for number, task in enumerate(tasks):
                        group.start_soon(run, task, anyio.CancelScope() if number else first)
                        while thread._calls.qsize() <= number:  # noqa: ASYNC110 - nothing announces it
                            await anyio.sleep(0.001)
                    yield first
                finally:
                    go_on.set()


def _insert(connection: Connection, numbers: tuple[int, ...], then: Exception | None) -> None:
    for number in numbers:
        connection.execute("INSERT INTO notes VALUES (?, '')", (number,))
    if then is not None:
        raise then


@pytest.fixture
async def notes(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Notes]:
    database = SqliteDatabase(tmp_path / "state.sqlite3")
    async with AsyncExitStack() as stack:
        await database.open()
        stack.push_async_callback(database.close)
        await database.write(lambda connection: connection.execute("CREATE TABLE notes (number, text)"))
        notes = Notes(database)
        assert database._connection is not None
        database._connection.set_trace_callback(notes.statements.append)
        yield notes


async def test_writes_that_come_together_share_one_commit_in_their_order(notes: Notes) -> None:
    async with notes.together(*[partial(notes.put, number) for number in range(1, 9)]):
        assert (notes.on_disk(), notes.returned) == ([], [])
    assert notes.on_disk() == sorted(notes.returned) == list(range(1, 9))
    assert (notes.count("BEGIN IMMEDIATE"), notes.count("COMMIT")) == (
        1,
        2,
    )  # the other is of what kept it busy


async def test_a_lone_write_is_never_delayed(notes: Notes) -> None:
    await notes.put(1)
    assert notes.on_disk() == [1]
    assert notes.count("SAVEPOINT") == 0


async def test_none_returns_before_all_are_on_disk(notes: Notes) -> None:
    seen: list[list[int]] = []

    async def put(number: int) -> None:
        await notes.put(number)
        seen.append(notes.on_disk())

    async with notes.together(lambda: put(1), lambda: put(2), lambda: put(3)):
        pass
    assert seen == [[1, 2, 3]] * 3


async def test_one_that_fails_takes_back_its_own_work_alone(notes: Notes) -> None:
    async def fails() -> None:
        with pytest.raises(LeaseLostError, match="taken over"):
            await notes.put(2, 3, then=LeaseLostError("taken over"))

    async def cannot_be_stored() -> None:
        with pytest.raises(StateError, match="cannot store a value"):
            await notes.put(5, 1 << 70)

    async with notes.together(lambda: notes.put(1), fails, lambda: notes.put(4), cannot_be_stored):
        pass
    assert notes.on_disk() == sorted(notes.returned) == [1, 4]


async def test_what_the_file_refuses_is_an_error_of_each_with_its_remedy(notes: Notes) -> None:
    caught: list[StateFullError] = []

    async def fails(number: int) -> None:
        with pytest.raises(StateFullError, match="Free some space") as error:
            await notes.put(number)
        caught.append(error.value)

    def fill(connection: Connection) -> None:
        connection.execute("INSERT INTO notes VALUES (0, ?)", ("x" * 100_000,))

    async def grow() -> None:
        with pytest.raises(StateFullError) as error:
            await notes.database.write(fill)
        caught.append(error.value)

    connection = notes.database._connection
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    async with notes.together(lambda: fails(1), grow, lambda: fails(2)):
        pass
    assert len(set(map(id, caught))) == 3
    assert notes.on_disk() == []
    await notes.put(3)
    assert notes.on_disk() == [3]


async def test_a_file_that_was_moved_away_is_an_error_of_each(notes: Notes) -> None:
    caught: list[StateError] = []

    async def fails(number: int) -> None:
        with pytest.raises(StateError, match="removed or replaced") as error:
            await notes.put(number)
        caught.append(error.value)

    async with notes.together(lambda: fails(1), lambda: fails(2)):
        aside = notes.database.path.rename(notes.database.path.with_name("aside"))
    assert len(set(map(id, caught))) == 2
    aside.rename(notes.database.path)
    await notes.put(3)
    assert notes.on_disk() == [3]


async def test_cancelling_one_that_waits_loses_nothing_of_the_others(notes: Notes) -> None:
    async with notes.together(lambda: notes.put(1), lambda: notes.put(2), lambda: notes.put(3)) as first:
        first.cancel()
    assert notes.on_disk() == [1, 2, 3]  # what had come was done
    assert {2, 3} <= set(notes.returned)


async def test_one_that_is_cancelled_before_it_comes_writes_nothing(notes: Notes) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await notes.put(1)
    assert notes.on_disk() == []


async def test_a_look_up_does_not_wait_for_those_who_write(notes: Notes) -> None:
    with closing(sqlite3.connect(notes.database.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # no other process can write meanwhile

        async def look_up() -> None:
            await notes.database.read(lambda connection: connection.execute("SELECT * FROM notes").fetchall())
            assert notes.returned == []
            other.execute("ROLLBACK")

        async with notes.together(lambda: notes.put(1), look_up, lambda: notes.put(2)):
            pass
    assert notes.on_disk() == [1, 2]


async def test_closing_waits_for_what_has_come(notes: Notes) -> None:
    async with notes.together(lambda: notes.put(1), lambda: notes.put(2), notes.database.close):
        pass
    assert notes.on_disk() == [1, 2]
    with pytest.raises(StateError, match="is not open"):
        await notes.put(3)
