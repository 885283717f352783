"""`bookmarks list` and `bookmarks reset`: what they show, what they delete, and when they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from engine.cli import main
from engine.contract.acks import Tally
from engine.contract.bookmarks import Bookmark
from engine.contract.split import Split
from engine.state import BookmarkFilter, Progress, RunRecord, StateStore, open_store

RUN = RunRecord("memos-1", "memos", "g", "i", {}, {}, {}, "s", "2026-01-01T00:00:00.000Z")
LAKE = "localhost/unstructured-data"


async def deliver(store: StateStore, run: RunRecord, node: str, *bookmarks: Bookmark) -> None:
    await store.add_splits(run.run_id, node, [Split("s")], complete=True)
    await store.commit(run.run_id, [Progress(node, "s", 1, True, Tally(), bookmarks=bookmarks)])


@pytest.fixture
def state(tmp_path: Path) -> str:
    async def fill() -> None:
        async with open_store(tmp_path) as store:
            notes = replace(RUN, run_id="notes-1", pipeline="notes")
            for run in (RUN, notes):
                await store.create_run(run)
            await deliver(store, RUN, "files", Bookmark(LAKE, "a b.txt", "etag-1"), Bookmark(LAKE, "ü", "e2"))
            await deliver(store, RUN, "lines", Bookmark("", "x.jsonl", {"offset": 12, "line": 3}))
            await deliver(store, notes, "files", Bookmark(LAKE, "ü", "e2"))

    anyio.run(fill)
    return str(tmp_path)


def left(state: str) -> list[str]:
    async def read() -> list[str]:
        async with open_store(state) as store:
            found = await store.list_bookmarks(BookmarkFilter())
            return [f"{one.pipeline}/{one.node}:{one.key}" for one in found]

    return anyio.run(read)


EVERYTHING = ["memos/files:a b.txt", "memos/files:ü", "memos/lines:x.jsonl", "notes/files:ü"]


@pytest.mark.slow
def test_the_list_has_a_line_for_each_place(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bookmarks", "list", "--state-dir", state]) == 0
    shown, total = capsys.readouterr()
    assert [line.split() for line in shown.splitlines()] == [
        ["pipeline/node", "place", "bookmarks"],
        ["memos/files", LAKE, "2"],
        ["memos/lines", "1"],
        ["notes/files", LAKE, "1"],
    ]
    assert total == "4 bookmarks\n"


@pytest.mark.slow
def test_each_bookmark_shows_its_value_and_run(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["bookmarks", "list", "--keys", "--pipeline", "memos", "--limit", "2", "--state-dir", state])
        == 0
    )
    shown, total = capsys.readouterr()
    head, first, second = shown.splitlines()
    assert head.split() == ["pipeline/node", "place", "key", "delivered", "by", "run"]
    assert first.split() == ["memos/files", LAKE, "a", "b.txt", '"etag-1"', "memos-1"]
    assert second.split()[2] == "ü"
    assert total == "3 bookmarks (2 shown; use --limit 0 to show all)\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--node", "lines"], {"pipeline": "memos", "node": "lines", "scope": "", "count": 1}),
        (
            ["--keys", "--node", "lines"],
            {"pipeline": "memos", "node": "lines", "scope": "", "key": "x.jsonl", "run_id": "memos-1",
             "value": {"offset": 12, "line": 3}},
        ),
    ],
)  # fmt: skip
def test_the_list_as_json(
    state: str, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: dict[str, object]
) -> None:
    assert main(["bookmarks", "list", "--json", *arguments, "--state-dir", state]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (["memos"], EVERYTHING[:3]),
        (["memos", "--node", "files"], EVERYTHING[:2]),
        (["memos", "--key", "ü"], ["memos/files:ü"]),
    ],
)
def test_reset_deletes_what_was_asked_for(
    state: str, capsys: pytest.CaptureFixture[str], arguments: list[str], gone: list[str]
) -> None:
    assert main(["bookmarks", "reset", *arguments, "--state-dir", state]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{len(gone)} bookmark")
    assert "deleted; the next run will re-read those inputs" in said
    assert left(state) == [one for one in EVERYTHING if one not in gone]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["memo"], "no bookmarks of a pipeline `memo`; there are bookmarks of `memos`, `notes`"),
        (
            ["memos", "--node", "file"],
            "no bookmark of pipeline `memos` matches; it has bookmarks of `files`, `lines`",
        ),
    ],
)
def test_a_reset_that_means_nothing_says_what_there_is(
    state: str, capsys: pytest.CaptureFixture[str], arguments: list[str], hint: str
) -> None:
    assert main(["bookmarks", "reset", *arguments, "--state-dir", state]) == 2
    assert hint in capsys.readouterr().err
    assert left(state) == EVERYTHING


@pytest.mark.slow
def test_a_pipeline_that_is_under_way_is_not_reset(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def take() -> None:
        async with open_store(state) as store:
            await store.acquire_lease(RUN.run_id, "elsewhere:1:x", now="2026", until="2999")

    anyio.run(take)
    assert main(["bookmarks", "reset", "memos", "--state-dir", state]) == 3
    assert "process elsewhere:1:x is working on run" in capsys.readouterr().err
    assert main(["bookmarks", "reset", "notes", "--state-dir", state]) == 0
    assert left(state) == EVERYTHING[:3]


@pytest.mark.slow
def test_runs_that_are_forgotten_leave_their_bookmarks(state: str) -> None:
    assert main(["runs", "forget", RUN.run_id, "--state-dir", state]) == 0
    assert left(state) == EVERYTHING


@pytest.mark.slow
def test_no_bookmarks_and_no_store_are_distinguished(
    state: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bookmarks", "list", "--pipeline", "none", "--state-dir", state]) == 0
    assert capsys.readouterr() == ("", "no bookmark matches\n")
    assert main(["bookmarks", "list", "--state-dir", str(tmp_path / "elsewhere")]) == 3
