"""The contract of state stores for bookmarks, on both backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.bookmarks import Bookmark
from engine.contract.split import Split
from engine.errors import LeaseLostError, StateError
from engine.state import BookmarkFilter, BookmarkRecord, BookmarkScope, Progress, StateStore
from tests.contract.test_state_store import RUN, STORES, WORLDS, World, another, prepare, progress

pytestmark = pytest.mark.anyio

LAKE = "lake/docs"
SPLIT = Split("a")
MARK = Bookmark(LAKE, "memos/a.txt", "etag-1")


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path, request)


def committable_bookmarks(*bookmarks: Bookmark, split: str = "a", read: int = 4) -> Progress:
    return replace(progress(split, read), bookmarks=bookmarks)


def values(keys: Sequence[str], value: object = "etag-1") -> list[Bookmark]:
    return [Bookmark(LAKE, key, value) for key in keys]


async def kept(store: StateStore, *keys: str, scope: str = LAKE) -> dict[str, object]:
    return await store.get_bookmarks(RUN.pipeline, "extract", scope, keys)


async def everything(store: StateStore) -> list[BookmarkRecord]:
    return await store.list_bookmarks(BookmarkFilter())


async def test_they_are_given_back_as_they_were_committed_after_a_restart(world: World) -> None:
    value = {"offset": 1 << 40, "line": 7, "head": None, "share": 0.5}
    async with world.store() as store:
        await prepare(store, "a", "b")
        await store.commit(
            RUN.run_id,
            [
                committable_bookmarks(MARK),
                committable_bookmarks(Bookmark("", "Überweisungen/ä.jsonl", value), split="b"),
            ],
        )
    async with world.store() as store:
        assert await kept(store, MARK.key, "unknown") == {MARK.key: "etag-1"}
        assert await kept(store, "Überweisungen/ä.jsonl", scope="") == {"Überweisungen/ä.jsonl": value}
        assert await kept(store) == {}


async def test_the_later_value_replaces_the_earlier(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(MARK)])
        await store.commit(
            RUN.run_id, [committable_bookmarks(MARK._replace(value="etag-2"), MARK._replace(value="etag-3"))]
        )
        await store.commit(RUN.run_id, [committable_bookmarks()])
        assert await kept(store, MARK.key) == {MARK.key: "etag-3"}


async def test_a_commit_that_fails_sets_none(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a")
        with pytest.raises(StateError, match="has no split 'b'"):
            await store.commit(RUN.run_id, [committable_bookmarks(MARK), progress("b", 4)])
        with pytest.raises(StateError, match=r"cannot store bookmark 'memos/a\.txt' .*as JSON"):
            await store.commit(RUN.run_id, [committable_bookmarks(MARK._replace(value={1, 2}))])
        assert await everything(store) == []
        assert (await store.tally(RUN.run_id)).read == 0


async def test_a_stale_epoch_sets_none(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(MARK)])
        world.take_over(RUN.run_id, 3)
        with pytest.raises(LeaseLostError):
            await store.commit(RUN.run_id, [committable_bookmarks(MARK._replace(value="etag-2"))], epoch=2)
        assert await kept(store, MARK.key) == {MARK.key: "etag-1"}


async def test_pipelines_nodes_and_scopes_are_kept_apart(world: World) -> None:
    other = another("r2", pipeline="other")
    async with world.store() as store:
        await prepare(store, "a")
        await store.add_splits(RUN.run_id, "second", [SPLIT], complete=True)
        await store.create_run(other)
        await store.add_splits(other.run_id, "extract", [SPLIT], complete=True)
        await store.commit(RUN.run_id, [committable_bookmarks(MARK)])
        await store.commit(
            RUN.run_id, [replace(committable_bookmarks(MARK._replace(value="second")), node="second")]
        )
        await store.commit(other.run_id, [committable_bookmarks(MARK._replace(value="other"))])
        await store.commit(RUN.run_id, [committable_bookmarks(Bookmark("elsewhere", MARK.key, "elsewhere"))])
        assert await kept(store, MARK.key) == {MARK.key: "etag-1"}
        assert await kept(store, MARK.key, scope="elsewhere") == {MARK.key: "elsewhere"}
        assert await store.get_bookmarks(RUN.pipeline, "second", LAKE, [MARK.key]) == {MARK.key: "second"}
        assert await store.get_bookmarks("other", "extract", LAKE, [MARK.key]) == {MARK.key: "other"}
        assert await store.get_bookmarks("third", "extract", LAKE, [MARK.key]) == {}


async def test_a_late_older_run_does_not_set_the_clock_back(world: World) -> None:
    later = another("r-later", started_at="2020-01-01T00:00:00.000Z")  # clocks may be wrong
    async with world.store() as store:
        await prepare(store, "a")
        await store.create_run(later)
        await store.add_splits(later.run_id, "extract", [SPLIT], complete=True)
        await store.commit(later.run_id, [committable_bookmarks(MARK._replace(value="newer"))])
        await store.commit(RUN.run_id, [committable_bookmarks(MARK, Bookmark(LAKE, "b", "etag-9"))])
        assert await kept(store, MARK.key, "b") == {MARK.key: "newer", "b": "etag-9"}
        await store.commit(
            later.run_id, [committable_bookmarks(MARK._replace(value="newest"), Bookmark(LAKE, "b", "new"))]
        )
        assert await kept(store, MARK.key, "b") == {MARK.key: "newest", "b": "new"}
        await store.delete_run(later.run_id)
        await store.commit(RUN.run_id, [committable_bookmarks(MARK)])
        assert await kept(store, MARK.key) == {MARK.key: "etag-1"}


async def test_they_outlive_the_run_that_has_set_them(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(MARK)])
        await store.delete_run(RUN.run_id)
    async with world.store() as store:
        assert await everything(store) == [
            BookmarkRecord(RUN.pipeline, "extract", LAKE, MARK.key, "etag-1", RUN.run_id)
        ]
        assert await kept(store, MARK.key) == {MARK.key: "etag-1"}


async def test_more_keys_than_one_statement_takes_are_all_found(world: World) -> None:
    keys = [f"k{number}" for number in range(1_200)]
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(*values(keys))])
        assert await kept(store, *keys) == dict.fromkeys(keys, "etag-1")


async def test_broken_text_in_a_name_is_found_again(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(Bookmark("", "caf\udce9.jsonl", 1))])
        assert await kept(store, "caf\udce9.jsonl", scope="") == {"caf\udce9.jsonl": 1}
        assert await store.delete_bookmarks(BookmarkFilter(key="caf\udce9.jsonl")) == 1


async def test_what_is_handed_out_may_be_changed_without_changing_the_store(world: World) -> None:
    value = {"at": [1]}
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(MARK._replace(value=value))])
        value["at"].append(2)
        for _ in range(2):
            found = await kept(store, MARK.key)
            assert found == {MARK.key: {"at": [1]}}
            found[MARK.key]["at"].append(3)  # type: ignore[index]


async def test_names_are_ordered_by_bytes_in_any_language(world: World) -> None:
    names = ["B", "a-b", "a.c", "ab", "z", "ä"]
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(*values(sorted(names, reverse=True)))])
        assert [one.key for one in await everything(store)] == names


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        (BookmarkFilter(), ["a", "b", "c", "d"]),
        (BookmarkFilter(limit=2), ["a", "b"]),
        (BookmarkFilter(limit=0), []),
        (BookmarkFilter(pipeline="blobs"), ["a", "b", "c"]),
        (BookmarkFilter(node="second"), ["c"]),
        (BookmarkFilter(scope="x"), ["a", "d"]),
        (BookmarkFilter(key="b"), ["b"]),
        (BookmarkFilter(pipeline="other", key="a"), []),
    ],
)  # fmt: skip
async def test_they_can_be_listed_counted_and_deleted_by_where_they_belong(
    world: World, where: BookmarkFilter, keys: list[str]
) -> None:
    other = another("r2", pipeline="other")
    async with world.store() as store:
        await prepare(store, "a")
        await store.add_splits(RUN.run_id, "second", [SPLIT], complete=True)
        await store.create_run(other)
        await store.add_splits(other.run_id, "extract", [SPLIT], complete=True)
        await store.commit(other.run_id, [committable_bookmarks(Bookmark("x", "d", 4))])
        await store.commit(RUN.run_id, [replace(committable_bookmarks(Bookmark("y", "c", 3)), node="second")])
        await store.commit(RUN.run_id, [committable_bookmarks(Bookmark("y", "b", 2), Bookmark("x", "a", 1))])

        assert [one.key for one in await store.list_bookmarks(where)] == keys
        matching = [one.key for one in await store.list_bookmarks(replace(where, limit=None))]
        assert sum(one.count for one in await store.bookmark_scopes(where)) == len(matching)
        assert await store.delete_bookmarks(where) == len(matching)
        assert [one.key for one in await everything(store)] == [key for key in "abcd" if key not in matching]


async def test_they_are_counted_by_pipeline_node_and_scope(world: World) -> None:
    async with world.store() as store:
        await prepare(store, "a")
        await store.commit(RUN.run_id, [committable_bookmarks(*values(["k1", "k2"]), Bookmark("", "k1", 0))])
        assert await store.bookmark_scopes(BookmarkFilter()) == [
            BookmarkScope("blobs", "extract", "", 1),
            BookmarkScope("blobs", "extract", LAKE, 2),
        ]
