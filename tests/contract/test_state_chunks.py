"""The contract of state stores for runs that several processes work on, chunk by chunk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.acks import Tally
from engine.contract.split import Split
from engine.errors import LeaseHeldError, LeaseLostError
from engine.state import Acked, DeadLetterFilter, Lease, RunStatus, StateStore
from tests.contract.test_state_store import (
    LATER,
    LETTER,
    MUCH_LATER,
    NOW,
    RUN,
    STORES,
    WORLDS,
    World,
    prepare,
    progress,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path, request)


async def take(store: StateStore, holder: str, chunk: str = "", now: str = NOW, until: str = LATER) -> Lease:
    return await store.acquire_lease(RUN.run_id, holder, now=now, until=until, chunk=chunk)


class TestLeasesOfChunks:
    async def test_chunks_have_their_own_holders_but_share_epochs(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            one, two = await take(store, "h1", "c1"), await take(store, "h2", "c2")
            assert (one, two) == (
                Lease(RUN.run_id, "h1", 1, LATER, "c1", 1),
                Lease(RUN.run_id, "h2", 2, LATER, "c2", 1),
            )
            assert await store.leases(RUN.run_id) == [one, two]
        async with world.store() as store:
            assert await store.leases(RUN.run_id) == [one, two]

    async def test_both_may_write_until_the_same_chunk_is_taken_again(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b")
            one, two = await take(store, "h1", "c1"), await take(store, "h2", "c2")
            await store.commit(RUN.run_id, [progress("a", 1)], epoch=one.epoch)
            await store.commit(RUN.run_id, [progress("b", 1)], epoch=two.epoch)
            again = await take(store, "h3", "c1", now=MUCH_LATER, until=MUCH_LATER)
            assert again.acquisitions == 2
            with pytest.raises(LeaseLostError, match="h3 took over run"):
                await store.commit(RUN.run_id, [progress("a", 2)], epoch=one.epoch)
            with pytest.raises(LeaseLostError):
                await store.renew_lease(one, until=MUCH_LATER)
            await store.commit(RUN.run_id, [progress("b", 2)], epoch=two.epoch)
            await store.commit(RUN.run_id, [progress("a", 3)], epoch=again.epoch)
            assert (await store.tally(RUN.run_id)).read == 5

    async def test_the_run_as_a_whole_waits_for_its_chunks_and_they_for_it(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            chunk = await take(store, "h1", "c1")
            with pytest.raises(LeaseHeldError, match="process h1 is working on run"):
                await take(store, "h2")
            await store.release_lease(chunk)
            whole = await take(store, "h2")
            assert (whole.epoch, whole.acquisitions) == (2, 1)
            with pytest.raises(LeaseHeldError, match="process h2 is working"):
                await take(store, "h1", "c1")
            with pytest.raises(LeaseHeldError, match="process h2 is working"):
                await take(store, "h1", "c9")

    async def test_taking_the_run_as_a_whole_overtakes_every_chunk(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            chunk = await take(store, "h1", "c1")
            whole = await take(store, "h2", now=MUCH_LATER, until=MUCH_LATER)
            with pytest.raises(LeaseLostError, match="h2 took over run"):
                await store.commit(RUN.run_id, [progress("a", 1)], epoch=chunk.epoch)
            await store.update_run(RUN.run_id, status=RunStatus.RUNNING, epoch=whole.epoch)
            await store.release_lease(whole)
            after = await take(store, "h1", "c1", now=MUCH_LATER, until=MUCH_LATER)
            # the chunk twice, the run once
            assert (after.epoch, after.acquisitions) == (3, 3)
            with pytest.raises(LeaseLostError, match="h1 took over run"):
                await store.update_run(RUN.run_id, status=RunStatus.FAILED, epoch=whole.epoch)
            await store.update_run(RUN.run_id, status=RunStatus.COMPLETED, epoch=after.epoch)

    async def test_a_chunk_that_was_given_back_is_free_and_its_epoch_gone(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            first = await take(store, "h1", "c1")
            await store.release_lease(first)
            assert await store.leases(RUN.run_id) == []
            with pytest.raises(LeaseLostError):
                await store.renew_lease(first, until=MUCH_LATER)
            second = await take(store, "h2", "c1")
            assert (second.epoch, second.acquisitions) == (2, 2)

    async def test_run_without_leases_accepts_any_epoch_until_its_first(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.commit(RUN.run_id, [progress("a", 1)])
            await take(store, "h1", "c1")
            with pytest.raises(LeaseLostError):
                await store.commit(RUN.run_id, [progress("a", 2)])


class TestPartsOfTheSplits:
    async def test_splits_are_given_in_parts_by_their_place(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, *(f"s{number}" for number in range(10)))
            part, complete = await store.splits(RUN.run_id, "extract", start=4, limit=3)
            assert ([one.split.key for one in part], complete) == (["s4", "s5", "s6"], True)
            rest, _ = await store.splits(RUN.run_id, "extract", start=8)
            assert [one.split.key for one in rest] == ["s8", "s9"]
            assert (await store.splits(RUN.run_id, "extract", start=10))[0] == []

    async def test_splits_are_counted_by_source(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b")
            await store.add_splits(RUN.run_id, "other", [Split("x")], complete=True)
            await store.commit(RUN.run_id, [progress("a", 1, done=True)])
            assert await store.count_splits(RUN.run_id, "extract") == (1, 2)
            assert await store.count_splits(RUN.run_id, "other") == (0, 1)
            assert await store.count_splits(RUN.run_id) == (1, 3)

    async def test_a_source_is_divided_once_and_stays_so(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b")
            assert await store.divisions(RUN.run_id) == {}
            assert await store.divide(RUN.run_id, "extract", 3) == 3
            assert await store.divide(RUN.run_id, "other", 5) == 5
        async with world.store() as store:
            assert await store.divide(RUN.run_id, "extract", 7) == 3
            assert await store.divisions(RUN.run_id) == {"extract": 3, "other": 5}
            assert (await store.splits(RUN.run_id, "extract"))[1], "as complete as it was"
            assert not (await store.splits(RUN.run_id, "other"))[1]
            await take(store, "h1")
            with pytest.raises(LeaseLostError):
                await store.divide(RUN.run_id, "extract", 7)


class TestSettledBeyondThePosition:
    ACKED = (Acked({"at": 20}, {"at": 30}, Tally(read=10, written=9, dropped=1, drops={"f: old": 1})),)

    async def test_it_is_kept_and_counts_only_when_the_position_gets_there(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.commit(RUN.run_id, [replace(progress("a", 10), acked=self.ACKED)])
        async with world.store() as store:
            ((record,), _) = await store.splits(RUN.run_id, "extract")
            assert tuple(record.acked) == self.ACKED
            assert (await store.tally(RUN.run_id)).read == 10

            await store.commit(RUN.run_id, [progress("a", 30)])
            ((record,), _) = await store.splits(RUN.run_id, "extract")
            assert tuple(record.acked) == ()
            assert (await store.tally(RUN.run_id)).read == 30

    async def test_a_stale_epoch_does_not_change_it(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.commit(RUN.run_id, [replace(progress("a", 10), acked=self.ACKED)])
            await take(store, "h1")
            with pytest.raises(LeaseLostError):
                await store.commit(RUN.run_id, [progress("a", 30)])
            ((record,), _) = await store.splits(RUN.run_id, "extract")
            assert tuple(record.acked) == self.ACKED

    async def test_each_split_has_its_own(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, *(f"s{number}" for number in range(5)))
            await store.commit(
                RUN.run_id,
                [replace(progress(f"s{number}", 10), acked=self.ACKED) for number in (0, 2, 4)],
            )
            part, _ = await store.splits(RUN.run_id, "extract", start=1, limit=2)
            assert [tuple(one.acked) for one in part] == [(), self.ACKED]
            assert (await store.splits(RUN.run_id, "extract", limit=0))[0] == []


class TestListings:
    async def test_a_new_listing_forgets_what_an_incomplete_one_has_left(self, world: World) -> None:
        async with world.store() as store:
            await store.create_run(RUN)
            await store.add_splits(
                RUN.run_id, "extract", [Split("a", {"old": 1}), Split("b")], complete=False
            )
            await store.add_splits(
                RUN.run_id, "extract", [Split("a", {"new": 1})], complete=False, restart=True
            )
            await store.add_splits(RUN.run_id, "extract", [Split("c")], complete=True)
            splits, complete = await store.splits(RUN.run_id, "extract")
        assert [(one.split.key, dict(one.split.manifest)) for one in splits] == [("a", {"new": 1}), ("c", {})]
        assert complete

    async def test_a_complete_listing_is_not_forgotten_nor_is_another_source(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a", "b")
            await store.add_splits(RUN.run_id, "other", [Split("x")], complete=False)
            await store.add_splits(RUN.run_id, "extract", [Split("c")], complete=True, restart=True)
            splits, _ = await store.splits(RUN.run_id, "extract")
            others, _ = await store.splits(RUN.run_id, "other")
        assert [one.split.key for one in splits] == ["a", "b", "c"]
        assert [one.split.key for one in others] == ["x"]


class TestDeadLettersOfAnOvertakenProcess:
    async def test_they_are_refused_and_change_nothing(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            lease = await take(store, "h1", "c1")
            await store.put_dead_letters([LETTER], epoch=lease.epoch)
            await take(store, "h2", "c1", now=MUCH_LATER, until=MUCH_LATER)
            with pytest.raises(LeaseLostError, match="h2 took over run"):
                await store.put_dead_letters([replace(LETTER, key="late")], epoch=lease.epoch)
            assert await store.dead_letter_keys(RUN.run_id) == {LETTER.node: {LETTER.key}}

    async def test_they_may_be_stored_without_a_lease(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await take(store, "h1")
            await store.put_dead_letters([LETTER])
            assert await store.count_dead_letters(DeadLetterFilter()) == 1


class TestDeadLettersOfChunks:
    async def test_a_chunk_sees_its_own_and_those_of_the_run_as_a_whole(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            for key, chunk in (("one", "c1"), ("two", "c2"), ("whole", "")):
                await store.put_dead_letters([replace(LETTER, key=key)], chunk=chunk)
            assert await store.dead_letter_keys(RUN.run_id, "c1") == {LETTER.node: {"one", "whole"}}
            assert await store.dead_letter_keys(RUN.run_id) == {LETTER.node: {"one", "two", "whole"}}
            assert await store.dead_letter_keys("r2", "c1") == {}

    async def test_one_that_failed_in_two_chunks_is_seen_by_both(self, world: World) -> None:
        async with world.store() as store:
            await prepare(store, "a")
            await store.put_dead_letters([LETTER], chunk="c1")
            await store.put_dead_letters([LETTER], chunk="c1")
            assert await store.dead_letter_keys(RUN.run_id, "c2") == {}
            await store.put_dead_letters([LETTER], chunk="c2")
            await store.put_dead_letters([LETTER], chunk="c2")
            for chunk in ("c1", "c2"):
                assert await store.dead_letter_keys(RUN.run_id, chunk) == {LETTER.node: {LETTER.key}}


async def test_counts_are_the_tally_without_reasons_and_figures_by_node(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a", "b")
        assert await store.counts(RUN.run_id) == Tally()
        await store.commit(RUN.run_id, [progress("a", 3, dead=1), progress("b", 4)])
        tally = await store.tally(RUN.run_id)
        assert await store.counts(RUN.run_id) == replace(tally, drops={}, delivered={}, deaths={})
        assert tally.drops
