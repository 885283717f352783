"""Behaviour of the SQLite store alone: file modes, versions, owners, and errors of disk and system."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from engine.contract.acks import Tally
from engine.contract.component import NoParams, Source
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.split import Split
from engine.errors import (
    StateCorruptError,
    StateError,
    StateFullError,
    StateReadOnlyError,
    StateVersionError,
)
from engine.execution.engine import Engine
from engine.state import DeadLetterFilter, JournalFilter, Progress, RunRecord, RunStatus, ledger, schema
from engine.state.sqlite import SqliteStateStore
from engine.testing import MemorySink, linear_plan
from tests.schema_versions import FAILING, schema_at, schema_with

RUN = RunRecord(
    run_id="r1",
    pipeline="blobs",
    group_id="g1",
    identity="i",
    identity_doc={},
    operational_doc={},
    params={},
    seed="s",
    started_at="2026-11-23T08:00:00.000Z",
)
ENTRY = JournalEntry("k", '{"patient_name":"Wilhelmina"}', run_id="r1", created_at="2026-11-23T08:00:00.000Z")
LETTER = DeadLetter("r1", "blobs", "load", "k", "write", "ValueError", "no", {"id": 1})

needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStateStore]:
    async with SqliteStateStore(tmp_path) as store:
        await store.create_run(RUN)
        yield store


def edit(path: Path, *statements: str) -> None:
    """Change a database behind the store's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def pragma(store: SqliteStateStore, name: str) -> object:
    connection = store._database._connection  # type: ignore[attr-defined]
    assert connection is not None
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def open_files(directory: Path) -> list[str]:
    """The files under `directory` that this process holds open."""
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            targets.append(os.readlink(link))
        except FileNotFoundError:  # the descriptor of this very listing
            continue
    return sorted(target for target in targets if target.startswith(str(directory)))


class TestFile:
    async def test_directory_and_files_are_private_to_the_user(self, tmp_path: Path) -> None:
        umask = os.umask(0)
        try:
            async with SqliteStateStore(tmp_path / "deep" / "state") as store:
                await store.create_run(RUN)
                modes = {path.name: path.stat().st_mode & 0o777 for path in store.path.parent.iterdir()}
        finally:
            os.umask(umask)
        assert (tmp_path / "deep" / "state").stat().st_mode & 0o777 == 0o700
        assert modes == dict.fromkeys(["state.sqlite3", "state.sqlite3-wal", "state.sqlite3-shm"], 0o600)

    async def test_files_that_others_could_read_are_made_private(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        async with SqliteStateStore(state) as store:
            await store.create_run(RUN)
        state.chmod(0o755)
        store.path.chmod(0o644)
        async with store:
            pass
        assert (state.stat().st_mode & 0o777, store.path.stat().st_mode & 0o777) == (0o700, 0o600)

    async def test_a_folder_with_other_things_in_it_keeps_its_mode(self, tmp_path: Path) -> None:
        os.chmod(tmp_path, 0o755)
        (tmp_path / "mine.txt").touch()
        async with SqliteStateStore(tmp_path) as store:
            pass
        assert store.path.parent.stat().st_mode & 0o777 == 0o755

    async def test_every_commit_is_synced_through_a_write_ahead_log(self, store: SqliteStateStore) -> None:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        assert [pragma(store, name) for name in names] == ["wal", 2, 1, 10_000]

    async def test_a_closed_store_is_one_file(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.create_run(RUN)
        assert os.listdir(tmp_path) == ["state.sqlite3"]

    async def test_a_copy_of_the_directory_is_a_store(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path / "a") as store:
            await store.create_run(RUN)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        async with SqliteStateStore(tmp_path / "b") as copy:
            assert await copy.get_run("r1") == RUN

    async def test_a_copy_made_by_sqlite_while_it_is_open_is_a_store(
        self, store: SqliteStateStore, tmp_path: Path
    ) -> None:
        (tmp_path / "copy").mkdir()
        edit(store.path, f"VACUUM INTO '{tmp_path / 'copy' / 'state.sqlite3'}'")
        async with SqliteStateStore(tmp_path / "copy") as copy:
            assert await copy.get_run("r1") == RUN

    async def test_a_command_that_only_looks_makes_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match="nothing has run with this state directory yet"):
            async with SqliteStateStore(tmp_path / "none", create=False):
                pass
        assert not (tmp_path / "none").exists()

    async def test_purged_answers_are_gone_from_the_files(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.put_journal([ENTRY, replace(ENTRY, key="other", run_id="r2", answer="still here")])
        async with store:
            assert await store.purge_journal(JournalFilter(run_id="r1")) == 1
        assert os.listdir(tmp_path) == ["state.sqlite3"]
        held = store.path.read_bytes()
        assert b"still here" in held
        assert b"Wilhelmina" not in held

    async def test_an_empty_file_left_by_a_crash_while_creating_is_filled(self, tmp_path: Path) -> None:
        (tmp_path / "state.sqlite3").touch()
        async with SqliteStateStore(tmp_path) as store:
            assert await store.list_runs() == []


class TestVersions:
    async def test_a_new_file_says_whose_it_is_and_its_version(self, store: SqliteStateStore) -> None:
        assert pragma(store, "application_id") == schema.APPLICATION_ID
        assert pragma(store, "user_version") == schema.SCHEMA_VERSION

    async def test_a_newer_version_is_refused_with_both_versions(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.create_run(RUN)
        newer = schema.SCHEMA_VERSION + 6
        edit(store.path, f"PRAGMA user_version = {newer}")
        before = store.path.read_bytes()
        with pytest.raises(StateVersionError) as caught:
            async with store:
                pass
        for part in (str(store.path), f"version {newer}", f"up to {schema.SCHEMA_VERSION}", "Upgrade"):
            assert part in str(caught.value)
        assert store.path.read_bytes() == before

    async def test_an_older_version_is_migrated_and_keeps_its_data(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.create_run(RUN)
        added = "CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('moved');"
        with schema_with(added):
            for _ in range(2):  # the second time there is nothing to do
                async with store:
                    assert await store.get_run("r1") == RUN
                    assert pragma(store, "user_version") == schema.SCHEMA_VERSION
                    notes = await store._database.read(lambda c: c.execute("SELECT * FROM notes").fetchall())
                    assert [tuple(note) for note in notes] == [("moved",)]

    async def test_first_version_store_is_migrated_with_its_runs(self, tmp_path: Path) -> None:
        with schema_at(1):
            async with SqliteStateStore(tmp_path) as old:
                await old.create_run(RUN)
                with pytest.raises(StateError, match="no column named outcome"):
                    await old.put_journal([ENTRY])
        async with SqliteStateStore(tmp_path) as store:
            assert await store.get_run("r1") == RUN
            await store.put_journal([ENTRY])
            assert await store.get_journal(["k"]) == {"k": ENTRY}

    async def test_counts_of_a_version_without_nodes_keep_their_sums(self, tmp_path: Path) -> None:
        with schema_at(5):
            async with SqliteStateStore(tmp_path) as old:
                await old.create_run(RUN)
                await old.add_splits("r1", "files", [Split("a"), Split("b")], complete=True)
                edit(
                    old.path,
                    "INSERT INTO progress (split, position, done, read, forked, written, accepted, dropped,"
                    " dead, tokens_in, tokens_out, cost_usd, drops)"
                    " VALUES (1, '7', 0, 7, 0, 5, 0, 0, 2, 0, 0, 0, '{}')",
                    """INSERT INTO acks VALUES (1, '9', '10', '{"read": 1, "written": 1, "dead": 0}')""",
                )
        async with SqliteStateStore(tmp_path) as store:
            (first, _), _ = await store.splits("r1", "files")
            assert (first.tally.delivered, first.tally.deaths) == ({"": 5}, {"": 2})
            assert (first.acked[0].tally.delivered, first.acked[0].tally.deaths) == ({"": 1}, {})
            tally = Tally(read=4, written=4, delivered={"load": 4})
            await store.commit("r1", [Progress("files", "b", None, True, tally)])
            assert (await store.tally("r1")).delivered == {"": 5, "load": 4}

    async def test_splits_of_a_version_without_read_limits_may_have_been_read(self, tmp_path: Path) -> None:
        with schema_at(schema.MIGRATIONS.index(schema._READ_LIMIT)):
            async with SqliteStateStore(tmp_path) as old:
                await old.create_run(RUN)
                await old.add_splits("r1", "files", [Split("a")], complete=True)
        async with SqliteStateStore(tmp_path) as store:
            await store.add_splits("r1", "files", [Split("b")], complete=True)
            splits, _ = await store.splits("r1", "files")
        assert [(one.split.key, one.position, one.read_limit) for one in splits] == [
            ("a", None, None), ("b", None, 0),
        ]  # fmt: skip

    async def test_letters_of_a_version_without_chunks_are_seen_by_all(self, tmp_path: Path) -> None:
        with schema_at(6):
            async with SqliteStateStore(tmp_path) as store:
                await store.create_run(RUN)
        edit(
            store.path,
            "INSERT INTO dead_letters VALUES"
            " (1, 'r1', 'blobs', 'load', 'k', 'write', 'ValueError', 'no', '{}', '', 1, '', '', 'open')",
        )
        async with SqliteStateStore(tmp_path) as store:
            assert await store.dead_letter_keys("r1", "extract/0+1") == {"load": {"k"}}

    async def test_a_migration_that_fails_leaves_the_old_version(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.create_run(RUN)
        with schema_with(FAILING):
            with pytest.raises(StateError, match="table runs already exists"):
                async with store:
                    pass
        async with store:
            assert await store.get_run("r1") == RUN
            assert pragma(store, "user_version") == schema.SCHEMA_VERSION

    @pytest.mark.parametrize("owner", [0, 0x12345678])
    async def test_another_programs_database_is_refused_and_left_alone(
        self, tmp_path: Path, owner: int
    ) -> None:
        path = tmp_path / "state.sqlite3"
        edit(path, "CREATE TABLE theirs (a)", f"PRAGMA application_id = {owner}")
        before = path.read_bytes()
        with pytest.raises(StateCorruptError, match="a database of another program"):
            async with SqliteStateStore(tmp_path):
                pass
        assert path.read_bytes() == before


class TestDamage:
    async def test_garbage_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "state.sqlite3"
        path.write_bytes(b"this was never a database. " * 400)
        before = path.read_bytes()
        with pytest.raises(StateCorruptError) as caught:
            async with SqliteStateStore(tmp_path):
                pass
        assert str(path) in str(caught.value)
        assert "does not start over by itself" in str(caught.value)
        assert path.read_bytes() == before

    async def test_damage_after_the_first_page_shows_when_it_is_read(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.put_dead_letters([replace(LETTER, key=str(n), record="x" * 500) for n in range(200)])
        size = store.path.stat().st_size
        with store.path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"\xa5" * (size - size // 2))
        with pytest.raises(StateCorruptError, match="cannot read "):
            async with store:
                await store.dead_letters(DeadLetterFilter())

    async def test_damage_of_a_small_file_shows_when_it_is_opened(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.put_dead_letters([replace(LETTER, key=str(n), record="x" * 500) for n in range(200)])
        size = store.path.stat().st_size
        with store.path.open("r+b") as file:
            file.seek(size // 2)
            file.write(b"\xa5" * 4096)
        before = store.path.read_bytes()
        with pytest.raises(StateCorruptError, match="cannot read"):
            async with SqliteStateStore(tmp_path, create=False):
                pass
        assert store.path.read_bytes() == before

    async def test_a_missing_table_is_damage(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            pass
        edit(store.path, "DROP TABLE progress")
        with pytest.raises(StateCorruptError, match="lacks the tables progress"):
            async with store:
                pass

    @pytest.mark.parametrize("change", ["status = 'half'", "params = '{\"a\": '"])
    async def test_a_damaged_row_is_named(self, tmp_path: Path, change: str) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.create_run(RUN)
        edit(store.path, f"UPDATE runs SET {change}")
        async with store:
            with pytest.raises(StateCorruptError, match="run 'r1'"):
                await store.get_run("r1")


class TestGone:
    """A file that was removed can still be written, and what is written is lost."""

    @pytest.mark.parametrize("replaced", [False, True])
    async def test_nothing_is_stored_any_more(self, store: SqliteStateStore, replaced: bool) -> None:
        aside = store.path.rename(store.path.with_name("aside"))
        if replaced:
            store.path.write_bytes(b"something else")
        with pytest.raises(StateError, match=f"{store.path} was removed or replaced while in use"):
            await store.update_run("r1", status=RunStatus.COMPLETED)
        store.path.unlink(missing_ok=True)
        assert (await store.get_run("r1")).status is RunStatus.RUNNING

        aside.rename(store.path)
        await store.update_run("r1", status=RunStatus.COMPLETED)

    @pytest.mark.parametrize("replaced", [False, True])
    async def test_a_log_that_was_removed_is_noticed(self, store: SqliteStateStore, replaced: bool) -> None:
        log = store.path.with_name("state.sqlite3-wal")
        await store.update_run("r1", status=RunStatus.FAILED)
        log.unlink()
        if replaced:
            log.touch()
        with pytest.raises(StateError, match=f"{log} was removed or replaced"):
            await store.update_run("r1", status=RunStatus.COMPLETED)

    @pytest.mark.slow
    async def test_a_run_whose_state_directory_was_removed_stops_and_says_so(self, tmp_path: Path) -> None:
        sink = MemorySink()
        async with Engine(state_dir=tmp_path / "state") as engine:
            async with engine.start(linear_plan(Endless(NoParams()), sink)) as run:

                async def remove() -> None:
                    while len(sink.records) < 10:
                        await anyio.lowlevel.checkpoint()
                    shutil.rmtree(tmp_path / "state")

                with anyio.fail_after(300):
                    async with anyio.create_task_group() as group:
                        group.start_soon(remove)
                        report = await run.wait()

        assert report.status is RunStatus.FAILED
        assert "was removed or replaced while in use" in report.error
        assert not (tmp_path / "state").exists()


class Endless(Source[NoParams]):
    """Endless numbers."""

    repeatable = True

    async def extract(self) -> AsyncGenerator[list[int], None]:  # type: ignore[override]
        for number in itertools.count():
            await anyio.lowlevel.checkpoint()
            yield [number]


class TestFull:
    async def test_a_full_disk_refuses_the_write_and_keeps_what_was_committed(
        self, store: SqliteStateStore
    ) -> None:
        await store.put_dead_letters([LETTER])
        pragma(store, f"max_page_count = {pragma(store, 'page_count')}")
        big = [replace(LETTER, key=str(number), record="x" * 4000) for number in range(20)]
        with pytest.raises(StateFullError) as caught:
            await store.put_dead_letters(big)
        assert str(store.path) in str(caught.value)
        assert "Free some space" in str(caught.value)
        assert await store.dead_letters(DeadLetterFilter()) == [LETTER]
        pragma(store, "max_page_count = 100000")
        await store.put_dead_letters(big)
        assert await store.count_dead_letters(DeadLetterFilter()) == 21

    async def test_a_full_disk_while_creating_is_distinguished(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engine.state.database.os.open", refuse(errno.ENOSPC))
        with pytest.raises(StateFullError, match="No space left on device"):
            async with SqliteStateStore(tmp_path):
                pass


def refuse(code: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


class TestReadOnly:
    """Run as root too, for whom permission bits mean nothing."""

    async def test_a_state_directory_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("a file")
        with pytest.raises(StateReadOnlyError, match=r"state is a file .*--state-dir"):
            async with SqliteStateStore(tmp_path / "state"):
                pass

    async def test_a_directory_instead_of_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "state.sqlite3").mkdir()
        with pytest.raises(StateReadOnlyError, match="unable to open database file"):
            async with SqliteStateStore(tmp_path):
                pass

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
    async def test_a_directory_where_nothing_can_be_created(self) -> None:
        with pytest.raises(StateReadOnlyError, match="/proc/self/state"):
            async with SqliteStateStore(Path("/proc/self/state")):
                pass

    @pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
    async def test_a_directory_that_may_not_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        monkeypatch.setattr("engine.state.database.os.open", refuse(code))
        with pytest.raises(StateReadOnlyError, match=os.strerror(code)):
            async with SqliteStateStore(tmp_path):
                pass

    async def test_a_file_that_cannot_be_written_is_found_on_entering(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with SqliteStateStore(tmp_path):
            pass
        connect = sqlite3.connect
        monkeypatch.setattr(
            "engine.state.database.sqlite3.connect",
            lambda path, **options: connect(f"file:{path}?mode=ro", uri=True, **options),
        )
        with pytest.raises(StateReadOnlyError, match="attempt to write a readonly database"):
            async with SqliteStateStore(tmp_path):
                pass


class TestLocks:
    async def test_a_writer_that_does_not_let_go_is_an_error_in_bounded_time(
        self, store: SqliteStateStore
    ) -> None:
        pragma(store, "busy_timeout = 1")
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StateError, match="locked by another process"):
                await store.update_run("r1", status=RunStatus.FAILED)
            assert (await store.get_run("r1")).status is RunStatus.RUNNING  # readers are not held up
            other.execute("ROLLBACK")
        await store.update_run("r1", status=RunStatus.FAILED)

    async def test_two_stores_in_one_process_see_each_others_commits(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as one, SqliteStateStore(tmp_path) as two:
            await one.create_run(RUN)
            await two.add_splits("r1", "extract", [Split("a")], complete=True)
            await one.commit("r1", [Progress("extract", "a", 1, False, (await two.tally("r1")))])
            (record,), _ = await two.splits("r1", "extract")
            assert record.position == 1


@needs_proc
class TestClosing:
    async def test_the_connection_is_closed_when_the_block_ends(self, tmp_path: Path) -> None:
        async with SqliteStateStore(tmp_path) as store:
            await store.create_run(RUN)
            assert open_files(tmp_path)
        assert open_files(tmp_path) == []

    async def test_and_when_the_block_fails(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError):
            async with SqliteStateStore(tmp_path):
                raise ZeroDivisionError
        assert open_files(tmp_path) == []

    async def test_and_when_it_is_cancelled(self, tmp_path: Path) -> None:
        with anyio.CancelScope() as scope:
            async with SqliteStateStore(tmp_path) as store:
                scope.cancel()
                await store.create_run(RUN)
        assert open_files(tmp_path) == []

    async def test_and_when_opening_fails(self, tmp_path: Path) -> None:
        (tmp_path / "state.sqlite3").write_bytes(b"garbage" * 1000)
        with pytest.raises(StateCorruptError):
            async with SqliteStateStore(tmp_path):
                pass
        assert open_files(tmp_path) == []

    async def test_and_when_asyncio_cancels_the_task_while_it_opens(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import asyncio
        import threading

        opening, go_on = threading.Event(), threading.Event()
        prepare = schema.prepare

        def slow(connection: sqlite3.Connection, path: Path) -> None:
            opening.set()
            go_on.wait(300)
            prepare(connection, path)

        monkeypatch.setattr("engine.state.database.prepare", slow)
        task = asyncio.create_task(SqliteStateStore(tmp_path).__aenter__())
        await anyio.to_thread.run_sync(opening.wait)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_files(tmp_path) == []


class TestLargeRuns:
    async def test_page_of_splits_is_found_by_index(self, store: SqliteStateStore) -> None:
        await store.add_splits("r1", "extract", [Split(f"s{n}") for n in range(9)], complete=True)
        # whoever looked at them would find them damaged
        edit(store.path, "UPDATE splits SET manifest = 'x' WHERE split_key NOT IN ('s4', 's5')")
        edit(store.path, "INSERT INTO acks SELECT seq, 'x', 'x', 'x' FROM splits WHERE split_key = 's8'")
        part, _ = await store.splits("r1", "extract", start=4, limit=2)
        assert [one.split.key for one in part] == ["s4", "s5"]
        assert await store.splits("r1", "extract", limit=0) == ([], True)

        connection = store._database._connection  # type: ignore[attr-defined]
        assert connection is not None
        seen: list[str] = []
        connection.set_trace_callback(seen.append)
        await store.splits("r1", "extract", start=4, limit=2)
        await store.dead_letter_keys("r1", "c1")
        connection.set_trace_callback(None)
        asked = [one for one in seen if one.startswith("SELECT") and ("splits" in one or "letters" in one)]
        plans = [" ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {one}")) for one in asked]
        assert len(plans) == 4, asked
        assert not [one for one in plans if "TEMP B-TREE" in one or "SCAN" in one], plans
        assert "COVERING INDEX splits_in_order" in plans[0]
        assert "dead_letters_of_a_chunk" in plans[3]


class TestPagesOfRuns:
    @pytest.mark.slow
    async def test_only_the_runs_of_the_page_are_read(
        self, store: SqliteStateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(40):
            await store.create_run(replace(RUN, run_id=f"page-{number:02}", pipeline="paged"))
        decode, decoded = ledger._run, itertools.count()
        monkeypatch.setattr(ledger, "_run", lambda row: next(decoded) >= 0 and decode(row))
        found = await store.list_runs(pipeline="paged", before="page-30", limit=3)
        assert [one.run_id for one in found] == ["page-27", "page-28", "page-29"]
        assert next(decoded) == 3

    @pytest.mark.parametrize("asked", ["", "WHERE pipeline = 'p'", "WHERE (started_at, seq) < ('t', 1)"])
    async def test_an_index_gives_runs_in_order(self, store: SqliteStateStore, asked: str) -> None:
        sql = f"EXPLAIN QUERY PLAN SELECT * FROM runs {asked} ORDER BY started_at DESC, seq DESC LIMIT 8"
        with closing(sqlite3.connect(store.path)) as connection:
            steps = " ".join(str(row[3]) for row in connection.execute(sql))
        assert "USING INDEX runs_" in steps
        assert "TEMP B-TREE" not in steps

    async def test_causes_of_dead_letters_are_counted_in_an_index(self, store: SqliteStateStore) -> None:
        sql = (
            "EXPLAIN QUERY PLAN SELECT pipeline, error_type, count(*) FROM dead_letters WHERE status = 'open'"
            " GROUP BY pipeline, error_type"
        )
        with closing(sqlite3.connect(store.path)) as connection:
            steps = " ".join(str(row[3]) for row in connection.execute(sql))
        assert "USING COVERING INDEX dead_letters_by_cause" in steps
