"""The content of a file after its run was stopped, killed or started again."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.files import JsonlSink, JsonlSinkParams, jsonl_sink
from connectors.objects.key_set import KeySet, pack_keys
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyList, KeyRange, Keys, join_keys
from engine.errors import FatalError, LeaseLostError
from engine.execution.engine import Engine
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import MemorySource, linear_plan
from tests.unit.kernel.runs import Wait, pages

Mode = Literal["append", "replace", "error"]


def sink(path: Path, mode: Mode = "append", **where: Any) -> JsonlSink:
    made = JsonlSink(JsonlSinkParams(path=str(path), mode=mode))
    made.ctx = Context(run_id="r1", node="save", **where)
    return made


def numbers(first: int, last: int) -> Batch:
    return Batch([{"n": number} for number in range(first, last)], KeyRange("a/", first, last))


def lines(path: Path) -> list[int]:
    return [orjson.loads(line)["n"] for line in path.read_bytes().splitlines()]


def notes(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".written")]


async def write(out: JsonlSink, *batches: Batch) -> None:
    async with out:
        for batch in batches:
            await out.write(batch)


async def test_a_later_attempt_writes_no_line_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3), numbers(5, 6))
    await write(sink(path, attempt=2), numbers(0, 5), numbers(5, 8))

    assert sorted(lines(path)) == list(range(8))


@pytest.mark.parametrize("name", ["x" * 249, "客" * 83])
async def test_a_file_may_have_as_long_a_name_as_any(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.jsonl"
    await write(sink(path), numbers(0, 3))
    assert [len(os.fsencode(note)) for note in notes(tmp_path)] == [90]
    await write(sink(path, attempt=2), numbers(0, 5))
    assert lines(path) == list(range(5))

    other = sink(path, "replace")
    other.ctx = Context(run_id="r2", node="save")
    await write(other, numbers(7, 8))
    with pytest.raises(FatalError, match="replaced"):
        await write(sink(path, attempt=3), numbers(5, 8))


async def test_records_that_were_packed_otherwise_are_known(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 10).take([1, 2, 7]), Batch([{"n": 9}], ["a/9"]))
    await write(sink(path, attempt=2), *(numbers(one, one + 1) for one in range(10)))

    assert sorted(lines(path)) == list(range(10))


def cut_short(path: Path, left: int, of: int) -> None:
    """Leave `left` of the last `of` bytes, as a kill in the middle of their write does."""
    inode, end = path.stat().st_ino, path.stat().st_size
    path.with_name(f".{path.name}.writing").write_bytes(b"%d %d %d\n" % (inode, end - of, end))
    os.truncate(path, end - of + left)


@pytest.mark.parametrize("distinct", [True, False])
async def test_a_write_that_a_kill_cut_short_is_completed(tmp_path: Path, distinct: bool) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path, distinct_keys=distinct), numbers(0, 3), numbers(3, 6))
    cut_short(path, 15, 24)  # of three lines one, and half of the next, has arrived
    await write(sink(path, distinct_keys=distinct, attempt=2), numbers(3, 6), numbers(6, 7))

    assert lines(path) == list(range(7))
    assert not path.with_name(".x.jsonl.writing").exists()


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("left", [0, 5, 8, 12, 23])
async def test_lines_of_another_writer_survive_a_batch_cut_short(
    tmp_path: Path, left: int, distinct: bool
) -> None:
    path = tmp_path / "x.jsonl"
    killed, other = (sink(path, chunk=chunk, distinct_keys=distinct) for chunk in "ab")
    async with killed, other:
        await killed.write(numbers(0, 3))
        await other.write(numbers(10, 12))
        await killed.write(numbers(3, 6))
        cut_short(path, left, 24)
        await other.write(numbers(12, 14))
    await write(sink(path, chunk="a", attempt=2, distinct_keys=distinct), numbers(3, 6))

    assert sorted(lines(path)) == [*range(6), *range(10, 14)]


async def test_lines_added_after_a_kill_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3))
    cut_short(path, 8, 24)
    standalone = JsonlSink(JsonlSinkParams(path=str(path)))
    await write(standalone, numbers(10, 12))
    assert lines(path) == [10, 11]

    cut_short(path, 18, 18)
    with path.open("ab") as another_program:
        another_program.write(b'{"n":20}\n')
    await write(sink(path, attempt=2), numbers(0, 3))
    assert lines(path) == [10, 11, 20, 0, 1, 2]


async def test_lines_of_a_new_file_of_the_name_are_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3))
    cut_short(path, 12, 24)
    path.rename(tmp_path / "rotated")
    path.write_bytes(b'{"n":20}\n')
    await write(sink(path, chunk="other"), numbers(3, 4))

    assert lines(path) == [20, 3]


@pytest.mark.parametrize("mark", [b"", b"1", b"8 2"])
async def test_a_mark_that_a_kill_cut_short_cuts_nothing(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3))
    path.with_name(".x.jsonl.writing").write_bytes(mark)
    await write(sink(path, attempt=2), numbers(0, 4))

    assert lines(path) == list(range(4))
    assert not path.with_name(".x.jsonl.writing").exists()


async def test_half_a_batch_of_a_full_disk_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    out = sink(path)

    def put(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[:12])
        raise OSError(errno.ENOSPC, "No space left on device")

    async with out:
        await out.write(numbers(0, 3))
        with monkeypatch.context() as patched:
            patched.setattr(jsonl_sink, "write_all", put)
            with pytest.raises(FatalError, match="No space left"):
                await out.write(numbers(3, 6))
            assert lines(path) == list(range(3))
            assert not path.with_name(".x.jsonl.writing").exists()

            patched.setattr(os, "ftruncate", _full)
            with pytest.raises(FatalError, match="No space left"):
                await out.write(numbers(3, 6))
    await write(sink(path, attempt=2), numbers(3, 6))
    assert lines(path) == list(range(6))


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


async def test_a_note_without_its_lines_is_no_delivery(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3))
    whole = path.stat().st_size
    await write(sink(path, attempt=2), numbers(3, 6))
    os.truncate(path, whole)
    await write(sink(path, attempt=3), numbers(3, 6))

    assert lines(path) == list(range(6))


async def test_a_file_that_was_removed_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3), numbers(3, 6))
    path.unlink()
    await write(sink(path, attempt=2), numbers(0, 6))

    assert lines(path) == list(range(6))


@pytest.mark.parametrize(
    ("first", "told"), [(0, []), (1, ["lacks 1 record "]), (4, ["lacks 4 records"]), (5, ["lacks 5 records"])]
)
async def test_lines_removed_between_attempts_are_counted(
    tmp_path: Path, first: int, told: list[str]
) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3), numbers(3, 5))
    path.unlink()
    async with sink(path, attempt=2) as out:
        await out.write(numbers(first, 6))
        await out.run_completed()

    assert [name.removeprefix("note: ")[:15] for name in out.ctx.aggregate] == told
    assert lines(path) == list(range(first, 6))


async def test_a_record_that_json_cannot_say_is_not_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    bad = Batch([{"n": 0}, {"n": object()}], KeyRange("a/", 0, 2))
    async with sink(path) as out:
        with pytest.raises(Exception, match="1 records failed"):
            await out.write(bad)
    await write(sink(path, attempt=2), numbers(0, 2))

    assert lines(path) == [0, 1]


async def test_another_run_adds_its_own_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    await write(sink(path), numbers(0, 3))
    other = sink(path)
    other.ctx.run_id = "r2"
    await write(other, numbers(0, 3))

    assert lines(path) == [0, 1, 2, 0, 1, 2]


async def test_keys_that_may_repeat_are_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    again = Batch([{"n": 1}, {"n": 2}], ["k", "k"])
    await write(sink(path, distinct_keys=False), again)
    await write(sink(path, distinct_keys=False, attempt=2), Batch([{"n": 3}], ["k"]))

    assert lines(path) == [1, 2, 3]
    assert [(tmp_path / name).read_bytes() for name in notes(tmp_path)] == [b"begun\n"]


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("completed", [False, True])
async def test_a_process_taken_for_dead_adds_no_line(tmp_path: Path, distinct: bool, completed: bool) -> None:
    path = tmp_path / "x.jsonl"
    suspended, other = sink(path, distinct_keys=distinct), sink(path, distinct_keys=distinct, attempt=2)
    async with suspended:
        await suspended.write(numbers(0, 3))
        async with other:
            await other.write(numbers(3, 6))
            if completed:
                await other.run_completed()
        with pytest.raises(LeaseLostError):
            await suspended.write(numbers(3, 6))

    assert lines(path) == list(range(6))
    assert len(notes(tmp_path)) == (0 if completed else 1), "those of the other attempt"


async def test_a_process_taken_for_dead_replaces_no_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"{}\n")
    suspended, other = sink(path, "replace"), sink(path, "replace", attempt=2)
    async with suspended, other:
        await other.write(numbers(0, 3))
        with pytest.raises(LeaseLostError):
            await suspended.write(numbers(0, 3))

    assert lines(path) == list(range(3))


async def test_a_run_that_wrote_nothing_leaves_no_notes(tmp_path: Path) -> None:
    async with sink(tmp_path / "x.jsonl"):
        assert len(notes(tmp_path)) == 1
    assert notes(tmp_path) == []


async def test_a_complete_run_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    async with Engine() as engine:
        report = await engine.run(linear_plan(MemorySource(pages(5)), Wait(_rows), JsonlSink(_to(path))))

    assert report.ok
    assert os.listdir(tmp_path) == ["x.jsonl"]


@pytest.mark.parametrize("size", [1, 7])
async def test_a_stopped_run_is_resumed_without_a_line_twice(tmp_path: Path, size: int) -> None:
    """Batches are joined otherwise than they were read, so that a redo brings again what is written."""
    path, store = tmp_path / "x.jsonl", MemoryStateStore()

    def split(batch: Batch) -> Batch:
        if 13 in batch.records and not healed:
            raise FatalError("refused", kind="auth")
        return _rows(batch)

    healed: list[bool] = []
    plan = linear_plan(MemorySource(pages(40, size=size)), Wait(split), JsonlSink(_to(path)))
    async with Engine(store=store) as engine:
        first = await engine.run(plan)
        healed.append(True)
        second = await engine.run(plan, resume=await store.get_run(first.run_id))

    assert first.status is RunStatus.FAILED
    assert second.ok
    assert sorted(lines(path)) == list(range(40))


async def test_replace_begins_with_an_empty_file_once(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n":99}\n')
    await write(sink(path, "replace"))
    assert lines(path) == [99]  # nothing was written yet: the old file is better than none
    await write(sink(path, "replace"), numbers(0, 2), numbers(2, 3))
    await write(sink(path, "replace", attempt=2), numbers(2, 5))

    assert lines(path) == list(range(5))


async def test_a_complete_run_without_records_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n":99}\n')
    async with Engine() as engine:
        report = await engine.run(linear_plan(MemorySource([]), JsonlSink(_to(path, "replace"))))

    assert report.ok
    assert path.read_bytes() == b""


@pytest.mark.parametrize("distinct", [True, False])
async def test_replace_is_not_skipped_by_a_resumed_run(tmp_path: Path, distinct: bool) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n":99}\n')
    await write(sink(path, "replace", distinct_keys=distinct))  # interrupted before its first batch
    await write(sink(path, "replace", attempt=2, distinct_keys=distinct), numbers(0, 2))
    await write(sink(path, "replace", attempt=3, distinct_keys=distinct), numbers(2, 3))

    assert lines(path) == [0, 1, 2]


async def test_replace_spares_lines_that_may_be_of_its_own_run(tmp_path: Path) -> None:
    """An earlier version left no notes where a key may come twice."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"n":0}\n')
    os.utime(path, (1_000.0, 1_000.0))
    where: dict[str, Any] = {"attempt": 2, "distinct_keys": False}
    begun = datetime.fromtimestamp(999.0, UTC)
    with pytest.raises(FatalError, match="cannot tell whether it was this one"):
        await write(sink(path, "replace", started_at=begun, **where), numbers(1, 2))
    assert lines(path) == [0]
    os.utime(path, (998.0, 998.0))
    await write(sink(path, "replace", started_at=begun, **where), numbers(1, 2))
    assert lines(path) == [1]


@pytest.mark.parametrize("distinct", [True, False])
async def test_a_complete_run_is_not_emptied_by_its_repetition(tmp_path: Path, distinct: bool) -> None:
    """Killed after the sink was told that the run is complete, and before the run was."""
    path = tmp_path / "x.jsonl"
    for attempt, batches in ((1, [numbers(0, 3)]), (2, [])):
        async with sink(path, "replace", attempt=attempt, distinct_keys=distinct) as out:
            for batch in batches:
                await out.write(batch)
            await out.run_completed()

    assert lines(path) == [0, 1, 2]
    assert notes(tmp_path) == []


async def test_error_refuses_a_file_that_has_something(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n":99}\n')
    with pytest.raises(FatalError, match="is not empty, which `mode: error` rejects"):
        await write(sink(path, "error"))
    with pytest.raises(FatalError, match="is not empty"):
        await write(sink(path, "error", attempt=2))  # it has not begun to write the first time
    path.unlink()
    await write(sink(path, "error"), numbers(0, 2))
    await write(sink(path, "error", attempt=2), numbers(2, 3))

    assert lines(path) == [0, 1, 2]


def _to(path: Path, mode: Mode = "append") -> JsonlSinkParams:
    return JsonlSinkParams(path=str(path), mode=mode)


def _rows(batch: Batch) -> Batch:
    return batch.replace([{"n": number} for number in batch.records])


@st.composite
def any_keys(draw: st.DrawFn) -> Keys:
    """Keys as batches have them: ranges and lists, cut, filtered and joined."""
    start = draw(st.integers(0, 30))
    keys: Keys = KeyRange(draw(st.sampled_from(["a/", "b/", "b/1"])), start, start + draw(st.integers(0, 20)))
    if draw(st.booleans()):
        keys = KeyList(draw(st.lists(st.sampled_from(["a/1", "a/01", "b", "7", "b/12"]), max_size=5)))
    if draw(st.booleans()) and len(keys):
        mask = draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))
        keys = keys.select(mask, sum(mask))
    return join_keys([keys, draw(any_keys())]) if draw(st.integers(0, 3)) == 0 else keys


@pytest.mark.slow
@given(
    st.lists(any_keys(), max_size=5), st.lists(st.sampled_from(["a/1", "b/12", "b/112", "a/01", "b", "7"]))
)
def test_a_key_set_has_exactly_what_was_added(batches: Sequence[Keys], others: Sequence[str]) -> None:
    known, packed, plain = KeySet(), KeySet(), set[str]()
    for keys in batches:
        ranges = keys.ranges()
        known.add(keys.to_list() if ranges is None else [], ranges or [])
        packed.add_packed(*pack_keys(keys.to_list()))
        plain.update(keys.to_list())
    known.close()
    packed.close()

    asked = [*others, *plain, *(f"{prefix}{number}" for prefix in ("a/", "b/") for number in range(60))]
    expected = [key for key in asked if key in plain]
    assert [key for key in asked if key in known] == expected
    assert [key for key in asked if key in packed] == expected
