"""The contract of state stores, on both backends."""

from __future__ import annotations

import asyncio
import copy
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.contract.acks import Tally
from engine.contract.dead_letter import DeadLetter
from engine.contract.split import Split
from engine.errors import LeaseHeldError, LeaseLostError, RunExistsError, RunNotFoundError, StateError
from engine.state import (
    Acked,
    DeadLetterFilter,
    Follower,
    Lease,
    Notification,
    Progress,
    RunRecord,
    RunStatus,
    StateStore,
    open_store,
)
from engine.state.memory import MemoryStateStore
from tests.examples import examples
from tests.servers.postgres import Postgres

TAKE_OVER = "INSERT INTO leases (run_id, holder, epoch, expires_at) VALUES (?, 'host-b:77', ?, '')"


class World(Protocol):
    """A place where state is kept, and what a test has to do there behind a store's back."""

    def store(self) -> StateStore:
        """A store on that place, as after a restart."""

    def take_over(self, run_id: str, epoch: int) -> None:
        """Another process gets the lease of a run."""


class MemoryWorld:
    def __init__(self, _: Path, __: pytest.FixtureRequest) -> None:
        self._store = MemoryStateStore()

    def store(self) -> StateStore:
        return self._store

    def take_over(self, run_id: str, epoch: int) -> None:
        connection = self._store._database._connection
        assert connection is not None
        connection.execute(TAKE_OVER, (run_id, epoch))


class SqliteWorld:
    def __init__(self, directory: Path, _: pytest.FixtureRequest) -> None:
        self._directory = directory

    def store(self) -> StateStore:
        return open_store(self._directory)

    def take_over(self, run_id: str, epoch: int) -> None:
        with closing(sqlite3.connect(self._directory / "state.sqlite3")) as connection, connection:
            connection.execute(TAKE_OVER, (run_id, epoch))


class PostgresWorld:
    def __init__(self, _: Path, request: pytest.FixtureRequest) -> None:
        self._server: Postgres = request.getfixturevalue("postgres")
        self._server.clear()

    def store(self) -> StateStore:
        return open_store(self._server.address())

    def take_over(self, run_id: str, epoch: int) -> None:
        self._server.sql(
            "INSERT INTO odw_engine.leases (run_id, holder, epoch, expires_at)"
            " VALUES (%s, 'host-b:77', %s, '')",
            (run_id, epoch),
        )


WORLDS: dict[str, Callable[[Path, pytest.FixtureRequest], World]] = {
    "memory": MemoryWorld,
    "postgres": PostgresWorld,
    "sqlite": SqliteWorld,
}

STORES = ["memory", pytest.param("postgres", marks=pytest.mark.slow), "sqlite"]

pytestmark = pytest.mark.anyio


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path, request)


RUN = RunRecord(
    run_id="blobs-20261123-7f3a",
    pipeline="blobs",
    group_id="group-1",
    identity="0123abcd",
    identity_doc={"nodes": [{"name": "extract", "with": {"records": 1000}}]},
    operational_doc={"limits": {"bytes": 1 << 26}},
    params={"batch_size": 1000, "pattern": "s3://Überweisungen/**", "nothing": None, "share": 0.25},
    seed="s-1",
    started_at="2026-11-23T08:00:00.000Z",
)

LETTER = DeadLetter(
    run_id=RUN.run_id,
    pipeline="blobs",
    node="load",
    key="7f3a/12",
    stage="write",
    error_type="ValidationError",
    error_message="size: not a number",
    record={"id": "a", "size": "ten", "parts": [1, None, 2.5]},
    first_failed_at="2026-11-23T08:00:05.000Z",
    last_failed_at="2026-11-23T08:00:05.000Z",
)


NOW, LATER, MUCH_LATER = (f"2026-11-23T08:{minute}:00.000Z" for minute in ("10", "11", "12"))


def another(run_id: str, **changes: Any) -> RunRecord:
    return replace(RUN, run_id=run_id, **changes)


def progress(split: str, read: int, *, node: str = "extract", done: bool = False, dead: int = 0) -> Progress:
    tally = Tally(
        read=read,
        written=read - dead,
        dead=dead,
        tokens_in=3 * read,
        cost_usd=read / 4,
        drops={"f: old": read},
        delivered={"load": read - dead},
        deaths={"load": dead},
    )
    return Progress(node, split, {"at": read}, done, tally)


async def prepare(store: StateStore, *splits: str) -> None:
    await store.create_run(RUN)
    await store.add_splits(RUN.run_id, "extract", [Split(key) for key in splits], complete=True)


async def test_runs_on_the_backend_it_is_named_after(anyio_backend: str) -> None:
    # asked of asyncio itself: sniffio would believe the plugin
    assert (asyncio._get_running_loop() is not None) == (anyio_backend == "asyncio")


class TestRuns:
    async def test_a_run_is_given_back_as_stored(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            assert await store.get_run(RUN.run_id) == RUN

    async def test_it_survives_a_restart(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
        async with world.store() as store:
            assert await store.get_run(RUN.run_id) == RUN

    async def test_the_same_id_twice_is_refused_and_the_first_stays(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            with pytest.raises(StateError, match="'blobs-20261123-7f3a' is in "):
                await store.create_run(replace(RUN, seed="other"))
            assert (await store.get_run(RUN.run_id)).seed == "s-1"

    async def test_a_runs_end_is_stored_with_its_notification(self, world: World) -> None:
        ended = ("2026-11-23T10:00:00Z", "2026-11-24T10:00:00Z")
        notes = [Notification(RUN.run_id, n, "blobs", {"status": "failed", "é": n}, ended[n]) for n in (0, 1)]
        async with world.store() as store:
            await store.create_run(RUN)
            for one in notes:
                await store.update_run(
                    RUN.run_id, status=RunStatus.FAILED, ended_at=one.ended_at, notification=one
                )
        async with world.store() as store:
            assert await store.notifications() == notes
            assert await store.delete_old_notifications(ended[1]) == 1
            await store.delete_notification(RUN.run_id, 7)
            assert await store.notifications() == notes[1:]
            await store.delete_run(RUN.run_id)
            assert await store.notifications() == []

    async def test_a_runs_end_is_stored_with_what_follows_it(self, world: World) -> None:
        first, second = Follower("g", "b", RUN.run_id), Follower("g", "c", RUN.run_id)
        follow_up = replace(RUN, run_id="b-1", group_id="g", pipeline="b")
        async with world.store() as store:
            await store.create_run(RUN)
            await store.update_run(RUN.run_id, status=RunStatus.FAILED, followers=[first, second])
            await store.update_run(RUN.run_id, status=RunStatus.FAILED, followers=[first])
        async with world.store() as store:
            assert await store.followers() == await store.followers("g") == [first, second]
            assert await store.followers("other") == []
            await store.create_run(follow_up, follows=first)
            assert await store.followers() == [second]
            with pytest.raises(RunExistsError, match="another process has started 'b'"):
                await store.create_run(replace(follow_up, run_id="b-2"), follows=first)
            assert [run.run_id for run in await store.list_runs(pipeline="b")] == ["b-1"]
            await store.delete_run("b-1", followed=first)  # it has not begun
            assert await store.followers() == [first, second]
            await store.update_run(RUN.run_id, status=RunStatus.RUNNING, attempt=2)
            assert await store.followers() == []

    async def test_a_pipeline_may_follow_several_runs_once(self, world: World) -> None:
        other = replace(RUN, run_id="other-1", pipeline="other")
        followers = [Follower("g", "b", run.run_id) for run in (RUN, other)]
        async with world.store() as store:
            for run, follower in zip((RUN, other), followers, strict=True):
                await store.create_run(run)
                await store.update_run(run.run_id, status=RunStatus.FAILED, followers=[follower])
            assert await store.followers("g") == followers
            await store.update_run(RUN.run_id, status=RunStatus.RUNNING, attempt=2)
            assert await store.followers("g") == followers[1:], "the other run still has one"
            await store.update_run(RUN.run_id, status=RunStatus.FAILED, followers=followers[:1])
            await store.create_run(replace(RUN, run_id="b-1", pipeline="b"), follows=followers[0])
            assert await store.followers("g") == []

    @pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED])
    async def test_what_another_process_has_started_follows_no_completed_run(
        self, world: World, status: RunStatus
    ) -> None:
        follower = Follower("g", "b", RUN.run_id)
        async with world.store() as store:
            await store.create_run(RUN)
            await store.create_run(replace(RUN, run_id="b-1", group_id="g", pipeline="b"))
            await store.update_run(RUN.run_id, status=status, followers=[follower])
            assert await store.followers() == ([follower] if status is RunStatus.FAILED else [])

    async def test_nothing_follows_a_deleted_run(self, world: World) -> None:
        follower = Follower("g", "b", RUN.run_id)
        async with world.store() as store:
            await store.create_run(RUN)
            await store.update_run(RUN.run_id, status=RunStatus.FAILED, followers=[follower])
            await store.create_run(replace(RUN, run_id="b-1"), follows=follower)
            await store.delete_run(RUN.run_id)
            await store.delete_run("b-1", followed=follower)
            assert await store.followers() == []

    async def test_a_stale_epoch_stores_no_notification(self, world: World) -> None:
        note = Notification(RUN.run_id, 1, "blobs", {}, "2026-11-23T10:00:00Z")
        async with world.store() as store:
            await store.create_run(RUN)
            world.take_over(RUN.run_id, 3)
            with pytest.raises(LeaseLostError):
                await store.update_run(RUN.run_id, status=RunStatus.FAILED, epoch=2, notification=note)
            assert await store.notifications() == []

    async def test_update_sets_the_state(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            await store.update_run(
                RUN.run_id, status=RunStatus.OUTAGE, ended_at="2026-11-23T09:00:00.000Z", error="no answer"
            )
            stopped = await store.get_run(RUN.run_id)
            await store.update_run(RUN.run_id, status=RunStatus.RUNNING, attempt=2)
            resumed = await store.get_run(RUN.run_id)
        assert stopped == replace(
            RUN, status=RunStatus.OUTAGE, ended_at="2026-11-23T09:00:00.000Z", error="no answer"
        )
        assert resumed == replace(RUN, attempt=2)

    async def test_broken_text_in_an_error_is_still_stored(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            await store.update_run(RUN.run_id, status=RunStatus.FAILED, error="no file 'caf\udce9\0'")
            assert (await store.get_run(RUN.run_id)).error == "no file 'caf\\udce9\\x00'"

    async def test_list_is_oldest_first_and_can_be_narrowed(self, world: World) -> None:
        late = another("r-late", started_at="2026-11-24T00:00:00.000Z")
        early = another("r-early", started_at="2026-11-22T00:00:00.000Z", pipeline="logs")
        grouped = another("r-grouped", group_id="group-2")
        async with world.store() as store:
            for run in (late, early, RUN, grouped):
                await store.create_run(run)
            assert await store.list_runs() == [early, RUN, grouped, late]
            assert await store.list_runs(group_id="group-1") == [early, RUN, late]
            assert await store.list_runs(pipeline="logs") == [early]
            assert await store.list_runs(pipeline="logs", group_id="group-2") == []
            assert await store.list_runs(identity="other") == []
            assert await store.list_runs(limit=2) == [grouped, late]
            assert await store.list_runs(group_id="group-1", limit=2) == [RUN, late]
            assert await store.list_runs(limit=0) == []
            assert await store.list_runs(before=grouped.run_id) == [early, RUN]
            assert await store.list_runs(before=late.run_id, limit=1) == [grouped]
            assert await store.list_runs(before=late.run_id, group_id="group-1") == [early, RUN]
            assert await store.list_runs(before="unknown", limit=1) == [late]
            await store.update_run(RUN.run_id, status=RunStatus.FAILED)
            failed = await store.list_runs(statuses=[RunStatus.FAILED, RunStatus.OUTAGE])
            assert [one.run_id for one in failed] == [RUN.run_id]
            assert await store.list_runs(statuses=[RunStatus.RUNNING], pipeline="logs") == [early]

    async def test_an_unknown_run_is_answered_with_the_nearest_ids(self, world: World) -> None:
        async with world.store() as store:
            with pytest.raises(RunNotFoundError, match="it has no runs"):
                await store.get_run("x")
            for run_id in ("blobs-1111", "logs-2222", "logs-3333"):
                await store.create_run(another(run_id))
            with pytest.raises(RunNotFoundError, match=r"did you mean blobs-1111\?"):
                await store.get_run("blob-1112")
            with pytest.raises(RunNotFoundError, match=r"did you mean logs-2222 or logs-3333\?"):
                await store.get_run("logs")
            with pytest.raises(RunNotFoundError, match="the latest are logs-3333, logs-2222, blobs-1111"):
                await store.get_run("zzz")

    async def test_every_method_that_takes_a_run_refuses_an_unknown_one(self, world: World) -> None:
        async with world.store() as store:
            calls = [
                store.get_run("x"),
                store.update_run("x", status=RunStatus.FAILED),
                store.add_splits("x", "extract", [Split("a")], complete=True),
                store.splits("x", "extract"),
                store.commit("x", [progress("a", 1)]),
                store.commit("x", []),
                store.tally("x"),
                store.count_splits("x"),
                store.delete_run("x"),
                store.acquire_lease("x", "h:1:a", now=NOW, until=LATER),
                store.renew_lease(Lease("x", "h:1:a", 1, NOW), until=LATER),
                store.leases("x"),
            ]
            for call in calls:
                with pytest.raises(RunNotFoundError):
                    await call

    async def test_values_that_are_not_json_are_refused(self, world: World) -> None:
        async with world.store() as store:
            with pytest.raises(StateError, match="cannot store run 'r' as JSON"):
                await store.create_run(another("r", identity_doc={"when": object()}))
            assert await store.list_runs() == []


class TestSplits:
    async def test_they_come_back_in_the_order_they_were_added(self, world: World) -> None:
        first = [Split("z", {"keys": ["b/z@1"]}), Split("a", {"range": [0, 10]}, first_ordinal=5)]
        async with world.store() as store:
            await store.create_run(RUN)
            await store.add_splits(RUN.run_id, "extract", first, complete=False)
            listed, complete = await store.splits(RUN.run_id, "extract")
            assert [record.split for record in listed] == first
            assert not complete
            await store.add_splits(RUN.run_id, "extract", [Split("m")], complete=True)
            listed, complete = await store.splits(RUN.run_id, "extract")
            assert [record.split.key for record in listed] == ["z", "a", "m"]
            assert complete

    async def test_a_new_split_has_no_progress(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            (record,), _ = await store.splits(RUN.run_id, "extract")
        assert (record.position, record.done, record.tally) == (None, False, Tally())

    async def test_adding_again_changes_nothing(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            await store.add_splits(RUN.run_id, "extract", [Split("a", {"etag": "1"})], complete=True)
            await store.commit(RUN.run_id, [progress("a", 4)])
            before = await store.splits(RUN.run_id, "extract")
            await store.add_splits(RUN.run_id, "extract", [Split("a", {"etag": "2"}, 9)], complete=False)
            assert await store.splits(RUN.run_id, "extract") == before

    async def test_nodes_and_runs_are_kept_apart(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.create_run(another("r2"))
            await store.add_splits("r2", "extract", [Split("a")], complete=False)
            await store.add_splits(RUN.run_id, "other", [Split("a")], complete=False)
            await store.commit(RUN.run_id, [progress("a", 4)])
            assert await store.tally("r2") == Tally()
            (other,), complete = await store.splits(RUN.run_id, "other")
            assert other.tally == Tally()
            assert not complete
            assert await store.splits(RUN.run_id, "unknown") == ([], False)

    async def test_a_source_without_splits_is_complete_all_the_same(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store)
            assert await store.splits(RUN.run_id, "extract") == ([], True)

    async def test_a_manifest_is_kept_as_it_was_when_it_was_added(self, world: World) -> None:
        manifest = {"keys": ["a"]}
        async with world.store() as store:
            await store.create_run(RUN)
            await store.add_splits(RUN.run_id, "extract", [Split("a", manifest)], complete=True)
            manifest["keys"].append("b")
            for _ in range(2):
                (record,), _complete = await store.splits(RUN.run_id, "extract")
                assert record.split.manifest == {"keys": ["a"]}
                record.split.manifest["keys"].append("c")


class TestLeases:
    async def test_second_holder_is_told_who_holds_the_lease_until_when(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            assert await store.leases(RUN.run_id) == []
            lease = await store.acquire_lease(RUN.run_id, "host-a:1:x", now=NOW, until=LATER)
            assert lease == Lease(RUN.run_id, "host-a:1:x", 1, LATER)
            with pytest.raises(
                LeaseHeldError, match=f"process host-a:1:x is working on run .*lease until {LATER}"
            ) as held:
                await store.acquire_lease(RUN.run_id, "host-a:1:y", now=NOW, until=MUCH_LATER)
            assert (held.value.holder, held.value.expires_at) == ("host-a:1:x", LATER)
            assert await store.leases(RUN.run_id) == [lease]

    async def test_runs_are_leased_one_by_one(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            await store.create_run(another("r2"))
            await store.acquire_lease(RUN.run_id, "a", now=NOW, until=LATER)
            assert (await store.acquire_lease("r2", "b", now=NOW, until=LATER)).epoch == 1

    @pytest.mark.parametrize(("now", "dead_holders"), [(LATER, []), (NOW, ["a"])], ids=["expired", "dead"])
    async def test_a_dead_lease_is_taken_over_under_the_next_epoch(
        self, world: World, now: str, dead_holders: list[str]
    ) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            first = await store.acquire_lease(RUN.run_id, "a", now=NOW, until=LATER)
            second = await store.acquire_lease(
                RUN.run_id, "b", now=now, until=MUCH_LATER, dead_holders=dead_holders
            )
            assert second == Lease(RUN.run_id, "b", 2, MUCH_LATER, acquisitions=2)
            with pytest.raises(LeaseLostError, match=r"b took over run .*\(epoch 2, ours is 1\)"):
                await store.renew_lease(first, until=MUCH_LATER)
            with pytest.raises(LeaseLostError):
                await store.commit(RUN.run_id, [progress("a", 4)], epoch=first.epoch)
            await store.release_lease(first)
            assert await store.leases(RUN.run_id) == [second]

    async def test_only_the_holder_that_is_dead_makes_way(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            await store.acquire_lease(RUN.run_id, "a", now=NOW, until=LATER)
            with pytest.raises(LeaseHeldError):
                await store.acquire_lease(RUN.run_id, "c", now=NOW, until=LATER, dead_holders=["b"])

    async def test_expired_lease_can_be_renewed_if_still_free(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            lease = await store.acquire_lease(RUN.run_id, "a", now=NOW, until=NOW)
            assert await store.renew_lease(lease, until=LATER) == Lease(RUN.run_id, "a", 1, LATER)
        async with world.store() as store:
            with pytest.raises(LeaseHeldError):
                await store.acquire_lease(RUN.run_id, "b", now=NOW, until=LATER)

    async def test_released_lease_is_free_but_its_epoch_is_not_reused(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            lease = await store.acquire_lease(RUN.run_id, "a", now=NOW, until=LATER)
            await store.release_lease(lease)
            assert await store.leases(RUN.run_id) == []
            with pytest.raises(LeaseLostError, match="has released run"):
                await store.renew_lease(lease, until=LATER)
            with pytest.raises(LeaseLostError, match="took over run"):
                await store.commit(RUN.run_id, [progress("a", 4)])
            assert (await store.acquire_lease(RUN.run_id, "b", now=NOW, until=LATER)).epoch == 2
            with pytest.raises(LeaseLostError):
                await store.commit(RUN.run_id, [progress("a", 4)], epoch=lease.epoch)


class TestForgetting:
    async def test_a_run_goes_with_its_splits_its_lease_and_its_dead_letters(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.create_run(another("r2"))
            await store.add_splits("r2", "extract", [Split("a")], complete=True)
            await store.put_dead_letters([LETTER, replace(LETTER, run_id="r2")])
            lease = await store.acquire_lease(RUN.run_id, "a", now=NOW, until=LATER)
            await store.delete_run(RUN.run_id, epoch=lease.epoch)
        async with world.store() as store:
            assert [run.run_id for run in await store.list_runs()] == ["r2"]
            assert [one.run_id for one in await store.dead_letters(DeadLetterFilter())] == ["r2"]
            assert await store.count_splits("r2") == (0, 1)
            await store.create_run(RUN)
            assert await store.splits(RUN.run_id, "extract") == ([], False)
            assert await store.leases(RUN.run_id) == []

    async def test_done_splits_are_counted_over_all_sources(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b", "c")
            await store.add_splits(RUN.run_id, "other", [Split("a")], complete=True)
            await store.commit(
                RUN.run_id,
                [progress("a", 4), progress("b", 2, done=True), progress("a", 1, node="other", done=True)],
            )
            assert await store.count_splits(RUN.run_id) == (2, 4)


class TestCommit:
    async def test_positions_and_tallies_are_written_together(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b")
            await store.commit(RUN.run_id, [progress("a", 4, dead=1), progress("b", 6, done=True)])
        async with world.store() as store:
            (a, b), _ = await store.splits(RUN.run_id, "extract")
            total = await store.tally(RUN.run_id)
        assert (a.position, a.done, a.tally) == ({"at": 4}, False, progress("a", 4, dead=1).tally)
        assert (b.position, b.done, b.tally) == ({"at": 6}, True, progress("b", 6).tally)
        assert total == Tally(
            read=10,
            written=9,
            dead=1,
            tokens_in=30,
            cost_usd=2.5,
            drops={"f: old": 10},
            delivered={"load": 9},
            deaths={"load": 1},
        )

    async def test_unknown_split_rejects_the_whole_commit(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            with pytest.raises(StateError, match="has no split 'b' of node 'extract'"):
                await store.commit(RUN.run_id, [progress("a", 4), progress("b", 4)])
            assert await store.tally(RUN.run_id) == Tally()

    async def test_of_a_split_that_is_named_twice_the_last_one_counts(self, world: World) -> None:
        beyond = [Acked({"at": 6}, {"at": 8}, Tally(read=2, written=2))]
        async with world.store() as store:
            await prepare(store, "a")
            first = replace(progress("a", 4), acked=beyond)
            await store.commit(RUN.run_id, [first, replace(progress("a", 5), acked=beyond)])
            ((record,), _) = await store.splits(RUN.run_id, "extract")
            assert (record.position, list(record.acked)) == ({"at": 5}, beyond)
            await store.commit(RUN.run_id, [first, progress("a", 8)])
            ((record,), _) = await store.splits(RUN.run_id, "extract")
            assert (record.position, list(record.acked)) == ({"at": 8}, [])

    async def test_a_position_that_is_not_json_is_refused(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            with pytest.raises(StateError, match=r"cannot store .* as JSON"):
                await store.commit(RUN.run_id, [replace(progress("a", 4), position={1, 2})])

    async def test_a_tally_that_grows_meanwhile_is_committed_as_it_was(self, world: World) -> None:
        live = progress("a", 4)
        expected = copy.deepcopy(live.tally)

        async def commit(begun: anyio.Event) -> None:
            begun.set()
            await store.commit(RUN.run_id, [live])

        async with world.store() as store:
            await prepare(store, "a")
            async with anyio.create_task_group() as tasks:
                events = [anyio.Event() for _ in range(3)]  # the later ones have to wait for the first
                for begun in events:
                    tasks.start_soon(commit, begun)
                for begun in events:
                    await begun.wait()
                live.tally.add(Tally(read=1, written=1, drops={"f: old": 1}))
            assert await store.tally(RUN.run_id) == expected

    async def test_tallies_that_were_handed_out_may_grow_without_the_store(self, world: World) -> None:
        """A resumed run continues to count in them, and what it counts is not committed yet."""
        acked = [Acked({"at": 6}, {"at": 9}, progress("a", 3, dead=2).tally)]
        async with world.store() as store:
            await prepare(store, "a")
            await store.commit(RUN.run_id, [replace(progress("a", 4, dead=1), acked=acked)])
            expected = copy.deepcopy(await store.splits(RUN.run_id, "extract"))

            (record,), _ = await store.splits(RUN.run_id, "extract")
            for tally in (record.tally, record.acked[0].tally):
                tally.add(progress("a", 5, dead=3).tally)

            assert await store.splits(RUN.run_id, "extract") == expected

    async def test_a_stale_epoch_is_refused(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.create_run(another("r2"))
            await store.add_splits("r2", "extract", [Split("a")], complete=True)
            await store.commit(RUN.run_id, [progress("a", 4)])
            world.take_over(RUN.run_id, 3)
            for epoch in (0, 2):
                with pytest.raises(LeaseLostError, match="took over run"):
                    await store.commit(RUN.run_id, [progress("a", 5)], epoch=epoch)
            assert (await store.tally(RUN.run_id)).read == 4
            await store.commit(RUN.run_id, [progress("a", 6)], epoch=3)
            assert (await store.tally(RUN.run_id)).read == 6
            await store.commit("r2", [progress("a", 1)], epoch=1)

    async def test_a_stale_epoch_writes_nothing_else_about_the_run_either(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            world.take_over(RUN.run_id, 3)
            for call in (
                store.update_run(RUN.run_id, status=RunStatus.FAILED, epoch=2),
                store.add_splits(RUN.run_id, "extract", [Split("b")], complete=True, epoch=2),
                store.delete_run(RUN.run_id, epoch=2),
            ):
                with pytest.raises(LeaseLostError, match="host-b:77 took over run"):
                    await call
            assert await store.get_run(RUN.run_id) == RUN
            assert await store.count_splits(RUN.run_id) == (0, 1)
            await store.update_run(RUN.run_id, status=RunStatus.FAILED, epoch=3)
            await store.add_splits(RUN.run_id, "extract", [Split("b")], complete=True, epoch=3)
            assert await store.count_splits(RUN.run_id) == (0, 2)

    async def test_a_cancelled_commit_is_whole_or_absent(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await store.commit(RUN.run_id, [progress("a", 4), progress("b", 4)])
            assert (await store.tally(RUN.run_id)).read in (0, 8)


COMMITS = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.booleans()), max_size=4), max_size=6
)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", sorted(WORLDS))
@given(commits=COMMITS)
@settings(max_examples=examples(30), deadline=None)
def test_the_tally_is_the_sum_of_the_last_progress_of_each_split(
    request: pytest.FixtureRequest, kind: str, backend: str, commits: list[list[tuple[str, int, bool]]]
) -> None:
    async def scenario(directory: Path) -> None:
        last: dict[str, Progress] = {}
        async with WORLDS[kind](directory, request).store() as store:
            await prepare(store, "a", "b", "c")
            for commit in commits:
                batch = [progress(split, read, done=done) for split, read, done in commit]
                last |= {one.split_key: one for one in batch}
                for _ in range(2):  # the second time must change nothing
                    await store.commit(RUN.run_id, batch)
                    expected = Tally()
                    for one in last.values():
                        expected.add(one.tally)
                    assert await store.tally(RUN.run_id) == expected
            records, _ = await store.splits(RUN.run_id, "extract")
            assert {r.split.key: (r.position, r.done) for r in records if r.split.key in last} == {
                key: (one.position, one.done) for key, one in last.items()
            }

    with TemporaryDirectory() as directory:
        anyio.run(scenario, Path(directory), backend=backend)


class TestDeadLetters:
    async def test_dead_letters_are_paged_newest_first(self, world: World) -> None:
        async with world.store() as store:
            letters = [replace(LETTER, key=str(number)) for number in range(5)]
            await store.put_dead_letters(letters)
            first = await store.page_of_dead_letters(DeadLetterFilter(limit=2))
            rest = await store.page_of_dead_letters(DeadLetterFilter(), before=first[-1][0])
            assert [one.key for _, one in (*first, *rest)] == ["4", "3", "2", "1", "0"]
            assert await store.numbered_dead_letter(first[0][0]) == letters[4]
            assert await store.numbered_dead_letter(10**9) is None

    async def test_causes_of_dead_letters_are_counted(self, world: World) -> None:
        async with world.store() as store:
            other = replace(LETTER, key="2", error_type="Other")
            await store.put_dead_letters([LETTER, other, replace(other, key="3")])
            assert await store.dead_letter_causes() == [
                (LETTER.pipeline, "Other", 2),
                (LETTER.pipeline, LETTER.error_type, 1),
            ]
            assert await store.dead_letter_causes("discarded") == []
            found = await store.page_of_dead_letters(DeadLetterFilter(), error_type="Other")
            assert sorted(one.key for _, one in found) == ["2", "3"]

    async def test_a_letter_is_given_back_as_stored(self, world: World) -> None:
        async with world.store() as store:
            await store.put_dead_letters([LETTER])
        async with world.store() as store:
            assert await store.dead_letters(DeadLetterFilter()) == [LETTER]

    async def test_a_record_too_large_to_keep_is_a_reference(self, world: World) -> None:
        letter = replace(LETTER, record=None, reference="s3://lake/big.txt@etag")
        async with world.store() as store:
            await store.put_dead_letters([letter])
            assert await store.dead_letters(DeadLetterFilter()) == [letter]

    async def test_dying_again_adds_attempts_and_keeps_the_first_time(self, world: World) -> None:
        again = replace(
            LETTER, attempts=3, error_type="TimeoutError", error_message="slow", record={"id": "b"},
            first_failed_at="2026-11-24T00:00:00.000Z", last_failed_at="2026-11-24T00:00:00.000Z",
        )  # fmt: skip
        async with world.store() as store:
            await store.put_dead_letters([LETTER])
            await store.mark_dead_letters([LETTER], "replayed")
            await store.put_dead_letters([again])
            assert await store.dead_letters(DeadLetterFilter()) == [
                replace(again, attempts=4, first_failed_at=LETTER.first_failed_at)
            ]

    async def test_twice_in_one_call_is_the_same(self, world: World) -> None:
        async with world.store() as store:
            await store.put_dead_letters([LETTER, replace(LETTER, error_message="second")])
            assert await store.dead_letters(DeadLetterFilter()) == [
                replace(LETTER, error_message="second", attempts=2)
            ]

    async def test_they_come_oldest_first_and_at_most_the_limit(self, world: World) -> None:
        times = {
            "1": "2026-11-23T10:00:00.000Z",
            "2": "2026-11-23T09:00:00.000Z",
            "3": "2026-11-23T10:00:00.000Z",
        }
        async with world.store() as store:
            await store.put_dead_letters(
                [replace(LETTER, key=key, first_failed_at=time) for key, time in times.items()]
            )
            found = {
                limit: [letter.key for letter in await store.dead_letters(DeadLetterFilter(limit=limit))]
                for limit in (None, 0, 2)
            }
            assert found == {None: ["2", "1", "3"], 0: [], 2: ["2", "1"]}
            assert await store.count_dead_letters(DeadLetterFilter(limit=1)) == 3

    @pytest.mark.parametrize(
        ("where", "keys"),
        [
            (DeadLetterFilter(run_id="r2"), ["2"]),
            (DeadLetterFilter(pipeline="logs"), ["3"]),
            (DeadLetterFilter(node="extract"), ["4"]),
            (DeadLetterFilter(key="1"), ["1"]),
            (DeadLetterFilter(status="discarded"), ["5"]),
            (DeadLetterFilter(run_id=RUN.run_id, status="open"), ["1", "3", "4"]),
            (DeadLetterFilter(run_id="r2", node="extract"), []),
        ],
    )  # fmt: skip
    async def test_they_can_be_narrowed(self, world: World, where: DeadLetterFilter, keys: list[str]) -> None:
        letters = [
            replace(LETTER, key="1"),
            replace(LETTER, key="2", run_id="r2"),
            replace(LETTER, key="3", pipeline="logs"),
            replace(LETTER, key="4", node="extract"),
            replace(LETTER, key="5", status="discarded"),
        ]
        async with world.store() as store:
            await store.put_dead_letters(letters)
            assert [letter.key for letter in await store.dead_letters(where)] == keys
            assert await store.count_dead_letters(where) == len(keys)

    async def test_marking_changes_the_status_of_these_alone(self, world: World) -> None:
        other = replace(LETTER, key="other")
        async with world.store() as store:
            await store.put_dead_letters([LETTER, other])
            await store.mark_dead_letters([LETTER, replace(LETTER, key="not there")], "replayed")
            assert await store.dead_letters(DeadLetterFilter()) == [replace(LETTER, status="replayed"), other]

    async def test_an_unknown_status_is_refused_and_nothing_is_written(self, world: World) -> None:
        async with world.store() as store:
            with pytest.raises(StateError, match="'lost' is not a dead-letter status"):
                await store.put_dead_letters([LETTER, replace(LETTER, key="b", status="lost")])
            assert await store.count_dead_letters(DeadLetterFilter()) == 0
            await store.put_dead_letters([LETTER])
            with pytest.raises(StateError, match="'lost' is not a dead-letter status"):
                await store.mark_dead_letters([LETTER], "lost")

    async def test_broken_text_does_not_keep_a_letter_out(self, world: World) -> None:
        broken = replace(
            LETTER,
            key="caf\udce9\0.txt",
            error_message="cannot decode \udce9",
            record={"text": "\udce9\x00é"},
        )
        async with world.store() as store:
            await store.put_dead_letters([broken])
            (found,) = await store.dead_letters(DeadLetterFilter(key=broken.key))
            assert found.record == broken.record
            assert found.key == "caf\\udce9\\x00.txt"
            assert found.error_message == "cannot decode \\udce9"
            await store.mark_dead_letters([broken], "discarded")
            assert await store.count_dead_letters(DeadLetterFilter(status="discarded")) == 1

    async def test_a_letter_needs_no_run_in_the_store(self, world: World) -> None:
        async with world.store() as store:
            await store.put_dead_letters([replace(LETTER, run_id="gone")])
            assert await store.count_dead_letters(DeadLetterFilter(run_id="gone")) == 1


class TestLifetime:
    async def test_methods_outside_async_with_are_refused(self, world: World) -> None:
        store = world.store()
        with pytest.raises(StateError, match="not open; use it inside `async with`"):
            await store.list_runs()
        async with store:
            await store.list_runs()
        with pytest.raises(StateError, match="not open"):
            await store.list_runs()

    async def test_many_tasks_may_use_it_at_once(self, world: World) -> None:
        keys = [str(number) for number in range(20)]
        async with world.store() as store:
            await prepare(store, *keys)
            async with anyio.create_task_group() as tasks:
                for key in keys:
                    tasks.start_soon(store.commit, RUN.run_id, [progress(key, 2)])
                    tasks.start_soon(store.put_dead_letters, [replace(LETTER, key=key)])
            assert (await store.tally(RUN.run_id)).read == 40
            assert await store.count_dead_letters(DeadLetterFilter()) == 20
