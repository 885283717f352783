"""Behaviour of the PostgreSQL store alone: users, versions, other clients, lost connections."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.from_thread
import pytest

from engine.contract.acks import Tally
from engine.contract.component import NoParams, Source
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.split import Split
from engine.errors import (
    LeaseLostError,
    StateCorruptError,
    StateError,
    StateReadOnlyError,
    StateVersionError,
)
from engine.execution.engine import Engine
from engine.state import (
    DeadLetterFilter,
    JournalFilter,
    Lease,
    Progress,
    RunRecord,
    RunStatus,
    leases,
    schema,
)
from engine.state.connection import Connection
from engine.state.dead_letters import put
from engine.state.ledger import progress_row, write_progress
from engine.state.postgres import PostgresStateStore
from engine.state.postgres.connection import connect
from engine.state.postgres.database import PostgresDatabase
from engine.state.postgres.errors import DisconnectedError
from engine.state.sqlite import SqliteStateStore
from engine.testing import MemorySink, linear_plan
from tests.schema_versions import FAILING, schema_at, schema_with
from tests.servers.lossy import lossy
from tests.servers.postgres import PASSWORD, PASSWORD_IN_ADDRESS, Postgres, running

pytestmark = pytest.mark.anyio

NOW, LATER, MUCH_LATER = (f"2026-11-23T08:{minute}:00.000Z" for minute in ("10", "11", "12"))
RUN = RunRecord(
    run_id="r1",
    pipeline="blobs",
    group_id="g1",
    identity="i",
    identity_doc={},
    operational_doc={},
    params={},
    seed="s",
    started_at=NOW,
)
LETTER = DeadLetter("r1", "blobs", "load", "k", "write", "ValueError", "no", {"id": 1})
ENTRY = JournalEntry("k", "{}", run_id="r1", created_at=NOW)
CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'odw-engine'"
WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted"
GONE = "schema odw_engine of .* was removed or replaced while in use"
PATIENT = 300.0  # only a broken store ever waits that long


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Postgres]:
    """The server that all tests share, without anything of the engine's."""
    postgres.drop()
    yield postgres
    postgres.drop()


def at(server: Postgres, **options: float) -> PostgresStateStore:
    return PostgresStateStore(server.address(), **options)  # type: ignore[arg-type]


def progress(split: str, read: int) -> Progress:
    return Progress("extract", split, read, False, Tally(read=read, written=read))


async def prepare(store: PostgresStateStore, *splits: str) -> None:
    await store.create_run(RUN)
    await store.add_splits("r1", "extract", [Split(key) for key in splits], complete=True)


class TestConnecting:
    async def test_a_wrong_password_is_reported_at_once_and_not_shown(self, server: Postgres) -> None:
        address = server.address().replace(PASSWORD_IN_ADDRESS, "wr0ng-w0rd")
        with pytest.raises(StateError, match="password authentication failed") as refused:
            async with PostgresStateStore(address):
                pass
        assert f"cannot reach postgresql://odw@127.0.0.1:{server.port}/odw" in str(refused.value)
        assert "wr0ng-w0rd" not in str(refused.value)

    async def test_a_server_that_is_not_there_is_named_without_the_password(self) -> None:
        address = f"postgresql://odw:{PASSWORD_IN_ADDRESS}@127.0.0.1:9/odw"
        with pytest.raises(
            StateError, match="Check that the server is up and the address is right"
        ) as refused:
            async with PostgresStateStore(address):
                pass
        assert "postgresql://odw@127.0.0.1:9/odw" in str(refused.value)
        assert PASSWORD not in str(refused.value)
        assert PASSWORD_IN_ADDRESS not in str(refused.value)

    async def test_the_password_may_come_from_the_environment(
        self, server: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        async with PostgresStateStore(f"postgresql://odw@127.0.0.1:{server.port}/odw") as store:
            assert await store.list_runs() == []

    async def test_a_command_that_only_looks_makes_nothing(self, server: Postgres) -> None:
        with pytest.raises(StateError, match="nothing has run with this database yet"):
            async with PostgresStateStore(server.address(), create=False):
                pass
        assert server.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'odw_engine'") == []

    async def test_a_database_with_another_encoding_is_refused(self, server: Postgres) -> None:
        server.sql(
            "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'", database="postgres"
        )
        try:
            with pytest.raises(StateError, match="has the encoding LATIN1"):
                async with PostgresStateStore(server.address("latin")):
                    pass
        finally:
            server.sql("DROP DATABASE latin", database="postgres")

    async def test_commits_are_synced_even_if_the_server_default_is_off(self, server: Postgres) -> None:
        assert server.sql("SHOW synchronous_commit") == [("off",)]
        async with at(server) as store:
            row = await store._database.read(lambda c: c.execute("SHOW synchronous_commit").fetchone())
        assert row == {"synchronous_commit": "on"}


@pytest.fixture
def clerk(server: Postgres) -> Iterator[str]:
    """The address of a user who may create nothing."""
    server.sql(f"CREATE ROLE clerk LOGIN PASSWORD '{PASSWORD}'")
    yield f"postgresql://clerk:{PASSWORD_IN_ADDRESS}@127.0.0.1:{server.port}/odw"
    server.drop()
    server.sql("DROP ROLE clerk")


class TestRights:
    async def test_a_user_without_create_rights_learns_what_to_request(self, clerk: str) -> None:
        with pytest.raises(StateReadOnlyError, match=r"permission denied .*GRANT CREATE ON DATABASE"):
            async with PostgresStateStore(clerk):
                pass

    @pytest.mark.slow
    async def test_a_schema_of_the_user_is_enough(self, clerk: str, server: Postgres) -> None:
        server.sql("CREATE SCHEMA odw_engine AUTHORIZATION clerk")
        async with PostgresStateStore(clerk) as store:
            await store.create_run(RUN)
        async with PostgresStateStore(clerk, create=False) as store:
            assert await store.get_run("r1") == RUN

    @pytest.mark.slow
    async def test_what_may_only_be_read_is_found_on_entering(self, clerk: str, server: Postgres) -> None:
        server.sql("CREATE SCHEMA odw_engine AUTHORIZATION clerk")
        async with PostgresStateStore(clerk):
            pass
        server.sql("ALTER ROLE clerk SET default_transaction_read_only TO on")
        with pytest.raises(StateReadOnlyError, match="read-only transaction"):
            async with PostgresStateStore(clerk):
                pass


class TestVersions:
    async def test_both_databases_have_the_same_tables_and_columns(
        self, server: Postgres, tmp_path: Path
    ) -> None:
        async with at(server), SqliteStateStore(tmp_path) as lite:
            pass
        theirs = server.sql(
            "SELECT table_name, column_name, is_nullable FROM information_schema.columns"
            " WHERE table_schema = 'odw_engine' AND table_name NOT IN ('schema_version', 'receipts')"
        )
        with closing(sqlite3.connect(lite.path)) as connection:
            ours = {
                (table, name, "NO" if required or key else "YES")
                for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                for _, name, _, required, _, key in connection.execute(f"PRAGMA table_info({table})")
            }
        assert set(theirs) == ours

    async def test_all_text_is_compared_byte_by_byte(self, server: Postgres) -> None:
        async with at(server):
            pass
        assert server.sql(
            "SELECT DISTINCT collation_name FROM information_schema.columns"
            " WHERE table_schema = 'odw_engine' AND data_type = 'text' AND table_name <> 'receipts'"
        ) == [("C",)]

    @pytest.mark.slow
    async def test_concurrent_first_connections_create_the_tables_once(self, server: Postgres) -> None:
        async def enter() -> None:
            async with at(server) as store:
                await store.list_runs()

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(enter)
        assert server.sql("SELECT version FROM odw_engine.schema_version") == [(schema.SCHEMA_VERSION,)]

    async def test_a_newer_version_is_refused_with_both_versions(self, server: Postgres) -> None:
        async with at(server):
            pass
        newer = schema.SCHEMA_VERSION + 6
        server.sql("UPDATE odw_engine.schema_version SET version = %s", (newer,))
        with pytest.raises(StateVersionError) as caught:
            async with at(server):
                pass
        for part in ("127.0.0.1", f"version {newer}", f"up to {schema.SCHEMA_VERSION}", "Upgrade"):
            assert part in str(caught.value)
        assert server.sql("SELECT version FROM odw_engine.schema_version") == [(newer,)]

    @pytest.mark.slow
    async def test_an_older_version_is_migrated_and_keeps_its_data(self, server: Postgres) -> None:
        with schema_at(1):
            async with at(server) as old:
                await old.create_run(RUN)
                with pytest.raises(StateCorruptError, match="outcome"):
                    await old.put_journal([ENTRY])
        for _ in range(2):  # the second time there is nothing to do
            async with at(server) as store:
                assert await store.get_run("r1") == RUN
                await store.put_journal([ENTRY])
                assert await store.get_journal(["k"]) == {"k": ENTRY}

    async def test_a_migration_that_fails_leaves_the_old_version(self, server: Postgres) -> None:
        async with at(server) as store:
            await store.create_run(RUN)
        with schema_with(FAILING):
            with pytest.raises(StateError, match='relation "runs" already exists'):
                async with at(server):
                    pass
        assert server.sql("SELECT to_regclass('odw_engine.half')") == [(None,)]
        async with at(server) as store:
            assert await store.get_run("r1") == RUN

    async def test_another_programs_schema_is_refused_and_left_alone(self, server: Postgres) -> None:
        server.sql("CREATE SCHEMA odw_engine; CREATE TABLE odw_engine.theirs (a int)")
        with pytest.raises(StateCorruptError, match="belongs to another program"):
            async with at(server):
                pass
        assert server.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'odw_engine'") == [("theirs",)]

    async def test_a_missing_table_is_damage(self, server: Postgres) -> None:
        async with at(server):
            pass
        server.sql("DROP TABLE odw_engine.progress")
        with pytest.raises(StateCorruptError, match="lacks the tables progress"):
            async with at(server):
                pass

    async def test_neighbours_in_the_same_database_are_not_touched(self, server: Postgres) -> None:
        server.sql("CREATE TABLE public.runs (a int); INSERT INTO public.runs VALUES (7)")
        try:
            async with at(server) as store:
                await store.create_run(RUN)
                await store.delete_run("r1")
            assert server.sql("SELECT a FROM public.runs") == [(7,)]
        finally:
            server.sql("DROP TABLE public.runs")


async def waiting(server: Postgres) -> None:
    """Return when a transaction waits for another one."""
    with anyio.fail_after(PATIENT):
        while not server.sql(WAITING):  # noqa: ASYNC110 - asks another process
            await anyio.sleep(0.01)


class Held:
    """A transaction that has done its work and is not committed before `go_on`."""

    def __init__(self, work: Callable[[Connection], object]) -> None:
        self._work = work
        self._done, self._go_on = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> object:
        result = self._work(connection)
        self._done.set()
        assert self._go_on.wait(PATIENT)
        return result

    async def done(self) -> None:
        await anyio.to_thread.run_sync(self._done.wait, PATIENT)

    def go_on(self) -> None:
        self._go_on.set()


class TestTransactionsSideBySide:
    @pytest.mark.slow
    async def test_a_commit_that_meets_a_takeover_waits_for_it_and_is_refused(self, server: Postgres) -> None:
        async with at(server) as one, at(server) as two:
            await prepare(one, "a")
            stale = await one.acquire_lease("r1", "h1", now=NOW, until=LATER)
            takeover = Held(lambda c: leases.acquire(c, "r1", "", "h2", MUCH_LATER, MUCH_LATER, ()))

            async def commit() -> None:
                with pytest.raises(LeaseLostError, match="h2 took over run"):
                    await one.commit("r1", [progress("a", 5)], epoch=stale.epoch)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(two._database.write, takeover)
                await takeover.done()
                tasks.start_soon(commit)
                await waiting(server)
                takeover.go_on()
            assert await one.tally("r1") == Tally()

    @pytest.mark.slow
    async def test_a_takeover_that_meets_a_commit_waits_for_it(self, server: Postgres) -> None:
        async with at(server) as one, at(server) as two:
            await prepare(one, "a")
            first = await one.acquire_lease("r1", "h1", now=NOW, until=LATER)
            commit = Held(lambda c: write_progress(c, "r1", [progress_row(progress("a", 5))], first.epoch))
            seen: list[int] = []

            async def take_over() -> None:
                await two.acquire_lease("r1", "h2", now=MUCH_LATER, until=MUCH_LATER)
                seen.append((await two.tally("r1")).read)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one._database.write, commit)
                await commit.done()
                tasks.start_soon(take_over)
                await waiting(server)
                commit.go_on()
            assert seen == [5]

    @pytest.mark.slow
    async def test_commits_of_two_chunks_do_not_wait_for_each_other(self, server: Postgres) -> None:
        async with at(server) as one, at(server) as two:
            await prepare(one, "a", "b")
            first = await one.acquire_lease("r1", "h1", now=NOW, until=LATER, chunk="c1")
            second = await one.acquire_lease("r1", "h2", now=NOW, until=LATER, chunk="c2")
            open_one = Held(lambda c: write_progress(c, "r1", [progress_row(progress("a", 5))], first.epoch))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one._database.write, open_one)
                await open_one.done()
                with anyio.fail_after(PATIENT):
                    await two.commit("r1", [progress("b", 3)], epoch=second.epoch)
                assert (await two.tally("r1")).read == 3
                open_one.go_on()
            assert (await two.tally("r1")).read == 8

    @pytest.mark.slow
    async def test_one_of_many_gets_the_lease_and_each_epoch_is_given_once(self, server: Postgres) -> None:
        won: list[Lease] = []
        refused: list[StateError] = []

        async def take(store: PostgresStateStore, holder: str, chunk: str) -> None:
            try:
                lease = await store.acquire_lease("r1", holder, now=NOW, until=LATER, chunk=chunk)
            except StateError as error:
                refused.append(error)
            else:
                won.append(lease)

        async with at(server) as one, at(server) as two, at(server) as three:
            await prepare(one, "a")
            async with anyio.create_task_group() as tasks:
                for chunk in ("c1", "c2", "c3"):
                    for number, store in enumerate((one, two, three)):
                        tasks.start_soon(take, store, f"h{number}", chunk)
        assert sorted(lease.chunk for lease in won) == ["c1", "c2", "c3"]
        assert sorted(lease.epoch for lease in won) == [1, 2, 3]
        assert len(refused) == 6

    @pytest.mark.slow
    async def test_two_that_wait_for_each_other_are_both_done_in_the_end(self, server: Postgres) -> None:
        met = threading.Barrier(2)
        attempts: list[str] = []

        def cross(connection: Connection, mine: str, other: str) -> None:
            attempts.append(mine)
            put(connection, [replace(LETTER, key=mine)], None)
            if attempts.count(mine) == 1:
                met.wait(PATIENT)
            put(connection, [replace(LETTER, key=other)], None)

        async with at(server) as one, at(server) as two:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one._database.write, cross, "a", "b")
                tasks.start_soon(two._database.write, cross, "b", "a")
            found = await one.dead_letters(DeadLetterFilter())
        assert sorted(attempts) in (["a", "a", "b"], ["a", "b", "b"])
        assert {letter.key: letter.attempts for letter in found} == {"a": 2, "b": 2}


class TestBrokenConnections:
    @pytest.mark.slow
    async def test_a_connection_that_broke_while_it_rested_is_not_noticed(self, server: Postgres) -> None:
        async with at(server) as store:
            await store.create_run(RUN)
            server.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'odw-engine'"
            )
            assert await store.get_run("r1") == RUN

    async def test_a_transaction_that_is_cut_off_is_done_again_and_once(self, server: Postgres) -> None:
        attempts: list[int] = []

        def cut_off(connection: Connection) -> None:
            put(connection, [LETTER], None)
            attempts.append(1)
            if len(attempts) == 1:
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        async with at(server) as store:
            await store._database.write(cut_off)
            (letter,) = await store.dead_letters(DeadLetterFilter())
        assert (len(attempts), letter.attempts) == (2, 1)

    @pytest.mark.slow
    @pytest.mark.parametrize("what", ["request", "reply"])
    async def test_writes_are_done_once_if_a_commit_is_lost(
        self, server: Postgres, what: Literal["request", "reply"]
    ) -> None:
        with lossy(server.port) as wire:
            async with PostgresStateStore(server.address(port=wire.port)) as store:
                wire.lose = what
                await store.create_run(RUN)
                wire.lose = what
                lease = await store.acquire_lease("r1", "h1", now=NOW, until=LATER)
                wire.lose = what
                await store.put_dead_letters([LETTER])
                wire.lose = what
                await store.delete_run("r1", epoch=lease.epoch)
                wire.lose = what
                await store.put_journal([ENTRY])
                assert wire.lost == 5
                assert lease == Lease("r1", "h1", 1, LATER)
                assert await store.list_runs() == []
                assert await store.get_journal(["k"]) == {"k": ENTRY}

    async def test_a_letter_whose_commit_was_not_heard_of_counts_one_attempt(self, server: Postgres) -> None:
        with lossy(server.port) as wire:
            async with PostgresStateStore(server.address(port=wire.port)) as store:
                wire.lose = "reply"
                await store.put_dead_letters([LETTER])
                (letter,) = await store.dead_letters(DeadLetterFilter())
        assert (wire.lost, letter.attempts) == (1, 1)


@pytest.mark.parametrize("committed", [True, False])
async def test_outcome_query_waits_for_the_transaction_to_end(server: Postgres, committed: bool) -> None:
    """The server may not have noticed yet that the client has left, and still commit it."""
    answers: list[bool] = []
    async with at(server):
        pass
    with closing(connect(server.address())) as lost, closing(connect(server.address())) as other:

        async def ask() -> None:
            answers.append(await anyio.to_thread.run_sync(other.has_committed, receipt))

        receipt = lost.begin_writing()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await waiting(server)
            assert answers == []
            if committed:
                lost.commit()
            else:
                lost.tidy()
        assert answers == [committed]


class Endless(Source[NoParams]):
    """Numbers without an end."""

    repeatable = True

    async def extract(self) -> AsyncGenerator[list[int], None]:  # type: ignore[override]
        while True:
            await anyio.lowlevel.checkpoint()
            yield [1]


class TestGone:
    """What is stored in a schema that took the place of ours belongs to other runs."""

    async def test_a_schema_that_was_dropped_is_noticed(self, server: Postgres) -> None:
        async with at(server) as store:
            await store.create_run(RUN)
            server.drop()
            with pytest.raises(StateError, match=f"{GONE}.*restore it, or start over"):
                await store.update_run("r1", status=RunStatus.COMPLETED)

    @pytest.mark.slow
    async def test_a_schema_that_took_its_place_gets_nothing(self, server: Postgres) -> None:
        async with at(server) as store, at(server) as idle:
            await store.create_run(RUN)
            server.drop()
            async with at(server) as new:
                for one in (store, idle):
                    with pytest.raises(StateError, match=GONE):
                        await one.put_journal([ENTRY])
                await new.create_run(RUN)  # a stranger's run of the same name
                with pytest.raises(StateError, match=GONE):
                    await store.update_run("r1", status=RunStatus.COMPLETED)
                assert (await new.get_run("r1")).status is RunStatus.RUNNING
                assert await new.list_journal(JournalFilter()) == []

    async def test_a_table_that_was_dropped_is_named(self, server: Postgres) -> None:
        async with at(server) as store:
            await store.create_run(RUN)
            server.sql("DROP TABLE odw_engine.splits CASCADE")
            with pytest.raises(StateError, match=r'"splits" does not exist'):
                await store.add_splits("r1", "read", [Split("s")], complete=True)

    @pytest.mark.slow
    async def test_a_store_may_be_opened_again_after_its_schema_was_dropped(self, server: Postgres) -> None:
        store = at(server)
        async with store:
            await store.create_run(RUN)
        server.drop()
        async with store:
            await store.create_run(RUN)

    @pytest.mark.slow
    async def test_a_run_whose_schema_was_dropped_stops_and_reports_it(self, server: Postgres) -> None:
        sink = MemorySink()
        async with Engine(store=at(server)) as engine:
            async with engine.start(linear_plan(Endless(NoParams()), sink)) as run:

                async def drop() -> None:
                    while len(sink.records) < 10:
                        await anyio.lowlevel.checkpoint()
                    await anyio.to_thread.run_sync(server.drop)

                with anyio.fail_after(PATIENT):
                    async with anyio.create_task_group() as group:
                        group.start_soon(drop)
                        report = await run.wait()
        assert report.status is RunStatus.FAILED
        assert "was removed or replaced while in use" in report.error


@pytest.fixture(scope="module")
def _private() -> Iterator[Postgres]:
    with running(kept=True) as server:
        yield server


@pytest.fixture
def private(_private: Postgres) -> Postgres:
    """A server that tests may stop."""
    _private.start()
    _private.drop()
    return _private


class TestServerThatGoesAway:
    @pytest.mark.slow
    async def test_reads_and_writes_wait_for_a_server_that_comes_back(
        self, private: Postgres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        totals: list[int] = []
        failed = anyio.Semaphore(0)
        attempt = PostgresDatabase._attempt

        def noticed(database: PostgresDatabase, call: Any) -> object:
            try:
                return attempt(database, call)
            except DisconnectedError:
                anyio.from_thread.run_sync(failed.release)
                raise

        async def write() -> None:
            await store.commit("r1", [progress("a", 5)])

        async def read() -> None:
            totals.append((await store.tally("r1")).read)

        async with at(private, patience=PATIENT) as store:
            await prepare(store, "a")
            private.stop()
            monkeypatch.setattr(PostgresDatabase, "_attempt", noticed)
            async with anyio.create_task_group() as tasks:
                for what in (write, read):
                    tasks.start_soon(what)
                    for _ in range(3):
                        await failed.acquire()
                private.start()
            assert totals in ([0], [5])
            assert (await store.tally("r1")).read == 5

    @pytest.mark.slow
    async def test_lasting_outage_is_an_error_that_later_calls_get_at_once(self, private: Postgres) -> None:
        async with at(private, patience=0.2) as store:
            await store.create_run(RUN)
            private.stop()
            with pytest.raises(StateError, match=r"could not reach .* for 0\.2 s: .*resume the run") as gone:
                await store.get_run("r1")
            store._database._patience = 10 * PATIENT  # type: ignore[attr-defined]
            with anyio.fail_after(PATIENT), pytest.raises(StateError, match="could not reach"):
                await store.get_run("r1")
            private.start()
            assert await store.get_run("r1") == RUN
        assert f"postgresql://odw@127.0.0.1:{private.port}/odw" in str(gone.value)
        assert PASSWORD not in str(gone.value)

    @pytest.mark.slow
    async def test_a_task_that_waits_for_it_can_be_cancelled(self, private: Postgres) -> None:
        async with at(private, patience=10 * PATIENT) as store:
            await store.create_run(RUN)
            private.stop()
            with anyio.fail_after(PATIENT):
                with anyio.move_on_after(0.2) as scope:
                    await store.get_run("r1")
            assert scope.cancelled_caught

    @pytest.mark.slow
    async def test_a_standby_is_refused_on_entering(self, private: Postgres) -> None:
        private.stop()
        with private.as_standby():
            private.start()
            with pytest.raises(StateReadOnlyError, match="is a read-only standby"):
                async with at(private):
                    pass
            private.stop()


class TestClosing:
    async def test_connections_are_closed_however_the_block_ends(self, server: Postgres) -> None:
        async with at(server) as store:
            await store.create_run(RUN)
        with pytest.raises(ZeroDivisionError):
            async with at(server) as store:
                raise ZeroDivisionError
        with anyio.CancelScope() as scope:
            async with at(server) as store:
                scope.cancel()
                await store.list_runs()
        with anyio.fail_after(PATIENT):
            while server.sql(CONNECTIONS) != [(0,)]:  # noqa: ASYNC110 - asks another process
                await anyio.sleep(0.01)

    @pytest.mark.slow
    async def test_it_takes_four_connections_at_most_and_no_more_than_it_needs(
        self, server: Postgres
    ) -> None:
        async with at(server) as store:
            await prepare(store, "a")
            assert server.sql(CONNECTIONS) == [(1,)]
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(store.put_dead_letters, [replace(LETTER, key=str(number))])
            ((connections,),) = server.sql(CONNECTIONS)
        assert 1 <= connections <= 4


def test_the_server_of_these_tests_orders_text_as_a_language_does(postgres: Postgres) -> None:
    """Or an order that the store takes from its database would not be noticed."""
    if int(postgres.sql("SHOW server_version_num")[0][0]) < 150_000:
        pytest.skip("a database gets such an order only from PostgreSQL 15 on")
    assert postgres.sql("SELECT 'a' < 'B'") == [(True,)]
