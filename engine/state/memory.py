"""A state store in memory: for tests and for runs that need no state directory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import anyio.lowlevel

from engine.contract.acks import Tally
from engine.contract.bookmarks import Bookmark
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import RunExistsError, StateError
from engine.state.dead_letters import check_status, storable
from engine.state.errors import decoded, encoded, no_such_run
from engine.state.memory_bookmarks import MemoryBookmarks
from engine.state.memory_leases import MemoryLeases
from engine.state.protocol import (
    Acked,
    BookmarkFilter,
    BookmarkRecord,
    BookmarkScope,
    DeadLetterFilter,
    JournalFilter,
    Lease,
    Progress,
    RunRecord,
    RunStatus,
    SplitRecord,
)

__all__ = ["MAX_JOURNAL", "MemoryStateStore"]

MAX_JOURNAL = 10_000
"""Answers that are kept, at most; the oldest leave first."""

_Node = tuple[str, str]  # run id, node


class MemoryStateStore:
    """Meets `StateStore`, whose methods have the documentation.

    The data lives as long as the object, over several `async with`. Values go through JSON as in any other
    store, so what is handed in or out may be changed without changing the store, and what is not JSON-safe
    is refused here too.
    """

    def __init__(self) -> None:
        self._open = False
        self._runs: dict[str, RunRecord] = {}
        self._splits: dict[_Node, dict[str, SplitRecord]] = {}
        self._complete: set[_Node] = set()
        self._divisions: dict[_Node, int] = {}
        self._leases = MemoryLeases()
        self._bookmarks = MemoryBookmarks()
        self._letters: dict[tuple[str, str, str], DeadLetter] = {}
        self._chunks: dict[tuple[str, str, str], str] = {}  # of the dead letters
        self._journal: dict[str, JournalEntry] = {}

    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = False

    async def create_run(self, run: RunRecord) -> None:
        await self._turn()
        if run.run_id in self._runs:
            raise RunExistsError(f"run {run.run_id!r} is in memory already")
        self._runs[run.run_id] = _copy_run(run)

    async def get_run(self, run_id: str) -> RunRecord:
        await self._turn()
        return _copy_run(self._run(run_id))

    async def list_runs(self, *, group_id: str = "", pipeline: str = "") -> list[RunRecord]:
        await self._turn()
        return [
            _copy_run(run)
            for run in sorted(self._runs.values(), key=lambda run: run.started_at)
            if group_id in ("", run.group_id) and pipeline in ("", run.pipeline)
        ]

    async def update_run(
        self,
        run_id: str,
        *,
        status: RunStatus,
        ended_at: str = "",
        error: str = "",
        attempt: int | None = None,
        epoch: int = 0,
    ) -> None:
        await self._turn()
        run = self._run(run_id, epoch)
        attempt = run.attempt if attempt is None else attempt
        self._runs[run_id] = replace(
            run, status=status, ended_at=ended_at, error=storable(error), attempt=attempt
        )

    async def delete_run(self, run_id: str, *, epoch: int = 0) -> None:
        await self._turn()
        self._run(run_id, epoch)
        del self._runs[run_id]
        self._leases.forget(run_id)
        self._splits = {place: known for place, known in self._splits.items() if place[0] != run_id}
        self._complete = {place for place in self._complete if place[0] != run_id}
        self._divisions = {place: one for place, one in self._divisions.items() if place[0] != run_id}
        self._letters = {place: one for place, one in self._letters.items() if place[0] != run_id}
        self._chunks = {place: one for place, one in self._chunks.items() if place[0] != run_id}

    async def acquire_lease(
        self,
        run_id: str,
        holder: str,
        *,
        now: str,
        until: str,
        dead_holders: Collection[str] = (),
        chunk: str = "",
    ) -> Lease:
        await self._turn()
        self._run(run_id)
        return self._leases.acquire(run_id, chunk, holder, now, until, dead_holders)

    async def renew_lease(self, lease: Lease, *, until: str) -> Lease:
        await self._turn()
        self._run(lease.run_id)
        return self._leases.renew(lease, until)

    async def release_lease(self, lease: Lease) -> None:
        await self._turn()
        self._leases.release(lease)

    async def get_lease(self, run_id: str, chunk: str = "") -> Lease | None:
        await self._turn()
        self._run(run_id)
        return self._leases.get(run_id, chunk)

    async def leases(self, run_id: str) -> list[Lease]:
        await self._turn()
        self._run(run_id)
        return self._leases.held(run_id)

    async def add_splits(
        self,
        run_id: str,
        node: str,
        splits: Sequence[Split],
        *,
        complete: bool,
        anew: bool = False,
        epoch: int = 0,
    ) -> None:
        await self._turn()
        self._run(run_id, epoch)
        copies = [replace(split, manifest=_copy(dict(split.manifest), split.key)) for split in splits]
        if anew and (run_id, node) not in self._complete:
            self._splits.pop((run_id, node), None)
        known = self._splits.setdefault((run_id, node), {})
        for split in copies:
            known.setdefault(split.key, SplitRecord(node, split))
        if complete:
            self._complete.add((run_id, node))

    async def splits(
        self, run_id: str, node: str, *, start: int = 0, limit: int | None = None
    ) -> tuple[list[SplitRecord], bool]:
        await self._turn()
        self._run(run_id)
        known = list(self._splits.get((run_id, node), {}).values())
        wanted = known[start : None if limit is None else start + limit]
        return [_copy_split(record) for record in wanted], (run_id, node) in self._complete

    async def count_splits(self, run_id: str, node: str = "") -> tuple[int, int]:
        await self._turn()
        self._run(run_id)
        places = [place for place in self._splits if place[0] == run_id and node in ("", place[1])]
        found = [one for place in places for one in self._splits[place].values()]
        return sum(one.done for one in found), len(found)

    async def divide(self, run_id: str, node: str, chunk_splits: int, *, epoch: int = 0) -> int:
        await self._turn()
        self._run(run_id, epoch)
        return self._divisions.setdefault((run_id, node), chunk_splits)

    async def divisions(self, run_id: str) -> dict[str, int]:
        await self._turn()
        self._run(run_id)
        return {node: many for (owner, node), many in self._divisions.items() if owner == run_id}

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        # before the first await: trackers go on changing their tallies
        snapshot = [
            replace(
                one,
                position=_copy(one.position, one.split_key),
                tally=_copy_tally(one.tally),
                acked=_copy_acked(one.acked, one.split_key),
                bookmarks=[_copy_bookmark(mark) for mark in one.bookmarks],
            )
            for one in progress
        ]
        await self._turn()
        run = self._run(run_id, epoch)
        for one in snapshot:  # all of them are checked before any is written
            if one.split_key not in self._splits.get((run_id, one.node), {}):
                raise StateError(f"run {run_id!r} has no split {one.split_key!r} of node {one.node!r}")
        for one in snapshot:
            known = self._splits[run_id, one.node]
            known[one.split_key] = replace(
                known[one.split_key],
                position=one.position,
                done=one.done,
                tally=one.tally,
                acked=one.acked,
            )
            if one.bookmarks:
                self._bookmarks.put(run, one.node, one.bookmarks, runs=list(self._runs))

    async def get_bookmarks(
        self, pipeline: str, node: str, scope: str, keys: Collection[str]
    ) -> dict[str, JsonValue]:
        await self._turn()
        return self._bookmarks.get(pipeline, node, scope, keys)

    async def list_bookmarks(self, where: BookmarkFilter) -> list[BookmarkRecord]:
        await self._turn()
        return self._bookmarks.matching(where)[: where.limit]

    async def bookmark_scopes(self, where: BookmarkFilter) -> list[BookmarkScope]:
        await self._turn()
        return self._bookmarks.scopes(where)

    async def delete_bookmarks(self, where: BookmarkFilter) -> int:
        await self._turn()
        return self._bookmarks.delete(where)

    async def tally(self, run_id: str) -> Tally:
        await self._turn()
        self._run(run_id)
        total = Tally()
        for (owner, _), known in self._splits.items():
            if owner == run_id:
                for record in known.values():
                    total.add(record.tally)
        return total

    async def counts(self, run_id: str) -> Tally:
        return replace(await self.tally(run_id), drops={}, delivered={}, deaths={})

    async def put_dead_letters(
        self, letters: Sequence[DeadLetter], *, epoch: int | None = None, chunk: str = ""
    ) -> None:
        await self._turn()
        if epoch is not None:
            for run_id in {letter.run_id for letter in letters}:
                self._run(run_id, epoch)
        copies = [_copy_letter(letter) for letter in letters]
        for letter in copies:
            check_status(letter.status)
        for letter in copies:
            place = (letter.run_id, letter.node, letter.key)
            if old := self._letters.get(place):
                letter = replace(
                    letter, attempts=old.attempts + letter.attempts, first_failed_at=old.first_failed_at
                )
            self._letters[place] = letter
            self._chunks[place] = chunk if self._chunks.get(place, chunk) == chunk else ""

    async def dead_letters(self, where: DeadLetterFilter) -> list[DeadLetter]:
        await self._turn()
        found = sorted(self._matching(where), key=lambda letter: letter.first_failed_at)
        return [_copy_letter(letter) for letter in found[: where.limit]]

    async def dead_letter_keys(self, run_id: str, chunk: str = "") -> dict[str, set[str]]:
        await self._turn()
        keys: dict[str, set[str]] = {}
        for owner, node, key in self._letters:
            if owner == run_id and (not chunk or self._chunks[owner, node, key] in ("", chunk)):
                keys.setdefault(node, set()).add(key)
        return keys

    async def count_dead_letters(self, where: DeadLetterFilter) -> int:
        await self._turn()
        return sum(1 for _ in self._matching(where))

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str) -> None:
        await self._turn()
        check_status(status)
        for letter in letters:
            place = (letter.run_id, letter.node, storable(letter.key))
            if place in self._letters:
                self._letters[place] = replace(self._letters[place], status=status)

    async def put_journal(self, entries: Sequence[JournalEntry]) -> None:
        await self._turn()
        for entry in entries:
            self._journal.pop(entry.key, None)  # what is replaced counts as new
            self._journal[entry.key] = replace(
                entry, answer=storable(entry.answer), record=storable(entry.record)
            )
        for key in list(self._journal)[: max(0, len(self._journal) - MAX_JOURNAL)]:
            del self._journal[key]

    async def get_journal(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        await self._turn()
        return {key: self._journal[key] for key in keys if key in self._journal}

    async def list_journal(self, where: JournalFilter) -> list[JournalEntry]:
        await self._turn()
        found = sorted(self._paid(where), key=lambda entry: entry.created_at)
        return [replace(entry, answer="") for entry in found]

    async def journal_cost(self, run_id: str, node: str) -> float:
        await self._turn()
        paid = self._paid(JournalFilter(run_id=run_id))
        return sum((entry.cost_usd for entry in paid if entry.node == node), 0.0)

    async def purge_journal(self, where: JournalFilter) -> int:
        await self._turn()
        gone = list(self._paid(where))
        for entry in gone:
            del self._journal[entry.key]
        return len(gone)

    async def _turn(self) -> None:
        """Where other stores wait; what follows happens in one step."""
        await anyio.lowlevel.checkpoint()
        if not self._open:
            raise StateError("the state store is not open; use it inside `async with`")

    def _run(self, run_id: str, epoch: int | None = None) -> RunRecord:
        if run_id not in self._runs:
            raise no_such_run(run_id, list(self._runs), "memory")
        if epoch is not None:
            self._leases.require_epoch(run_id, epoch)
        return self._runs[run_id]

    def _matching(self, where: DeadLetterFilter) -> Iterator[DeadLetter]:
        for letter in self._letters.values():
            if (
                where.run_id in ("", letter.run_id)
                and where.pipeline in ("", letter.pipeline)
                and where.node in ("", letter.node)
                and storable(where.key) in ("", letter.key)
                and where.status in ("", letter.status)
                and where.stage in ("", letter.stage)
            ):
                yield letter

    def _paid(self, where: JournalFilter) -> Iterator[JournalEntry]:
        for entry in self._journal.values():
            if (
                where.run_id in ("", entry.run_id)
                and where.pipeline in ("", entry.pipeline)
                and where.model in ("", entry.model)
                and (not where.before or entry.created_at < where.before)
            ):
                yield entry


def _copy(value: JsonValue, what: str) -> JsonValue:
    return decoded(encoded(value, what), what)


def _copy_run(run: RunRecord) -> RunRecord:
    docs = _copy([run.identity_doc, run.operational_doc, dict(run.params)], f"run {run.run_id!r}")
    return replace(run, identity_doc=docs[0], operational_doc=docs[1], params=docs[2])


def _copy_tally(tally: Tally) -> Tally:
    total = Tally()
    total.add(tally)
    return total


def _copy_split(record: SplitRecord) -> SplitRecord:
    split = replace(record.split, manifest=_copy(record.split.manifest, record.split.key))
    position = _copy(record.position, record.split.key)
    acked = _copy_acked(record.acked, record.split.key)
    return replace(record, split=split, position=position, tally=_copy_tally(record.tally), acked=acked)


def _copy_acked(acked: Sequence[Acked], what: str) -> list[Acked]:
    return [Acked(_copy(one.start, what), _copy(one.end, what), _copy_tally(one.tally)) for one in acked]


def _copy_bookmark(bookmark: Bookmark) -> Bookmark:
    return bookmark._replace(value=_copy(bookmark.value, f"bookmark {bookmark.key!r}"))


def _copy_letter(letter: DeadLetter) -> DeadLetter:
    return replace(
        letter,
        key=storable(letter.key),
        error_message=storable(letter.error_message),
        reference=storable(letter.reference),
        record=_copy(letter.record, f"the record of dead letter {letter.key!r}"),
    )
