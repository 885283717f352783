"""The one writer thread: a bounded queue, group commit, and idle compaction.

Submissions that arrive during a commit become the next group; there is no timer, so a lone request never
waits.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import EngineError, StateError
from engine.service.commit import Encoded, GroupCommit
from engine.service.retention import Trimmer
from engine.service.settings import ServiceSettings
from engine.service.submission import (
    KeyReusedError,
    QueueFullError,
    Receipt,
    RequestKey,
    Submission,
    WarehouseDownError,
    WriteFailedError,
)
from engine.service.tables import ENCODING_ERRORS, Table

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Item:
    """Work for the thread; without a submission it is a request to compact."""

    submission: Submission | None
    future: Future[Receipt] = field(default_factory=Future)

    @property
    def rows(self) -> int:
        work = self.submission
        return 0 if work is None else work.row_count + len(work.letters)


class Writer:
    """Owns the writing connection. `submit` and `compact` may be called from any thread.

    `connect` returns a connection; it is called again after `reconnect`, which repairs a database that DuckDB
    has declared invalid (e.g. without disk space). `check` raises StateError if a commit would be lost.
    """

    def __init__(
        self,
        connect: Callable[[], DuckDBPyConnection],
        reconnect: Callable[[], None],
        tables: Iterable[Table],
        settings: ServiceSettings,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect, self._reconnect = connect, reconnect
        self._check = check
        self._tables = tuple(tables)
        self._settings = settings
        self._commit: GroupCommit | None = None
        self._queue: deque[_Item] = deque()
        self._queued_rows = 0
        self._by_key: dict[RequestKey, _Item] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self.problem: str | None = None  # the storage error of the last commit
        self._compact_at = 0.0
        self._trimmer: Trimmer | None = None
        if settings.retention.is_set:
            self._trimmer = Trimmer(settings.retention, {table.name: table for table in self._tables})
        self._thread = threading.Thread(target=self._run, name="warehouse-writer", daemon=True)

    def start(self) -> None:
        """Open the connection and start the thread. Raises duckdb.Error."""
        self._commit = GroupCommit(self._connect(), self._tables)
        self._commit.compact(self._settings.ledger_days)
        self._thread.start()

    @property
    def removed(self) -> Counter[str]:
        """Return how many rows the retention has removed, by table."""
        # a copy, since the writer's thread may add a table during a read
        return Counter() if self._trimmer is None else self._trimmer.removed.copy()

    @property
    def queued(self) -> int:
        """Number of waiting submissions."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """Whether `submit` would now reject a submission."""
        limits = self._settings
        return len(self._queue) >= limits.max_queued_requests or self._queued_rows >= limits.max_queued_rows

    def submit(self, submission: Submission) -> Future[Receipt]:
        """Queue a submission. Raises QueueFullError, WarehouseDownError, KeyReusedError.

        The future has the receipt after the commit, else one of these errors or WriteFailedError. A
        submission whose key is still queued or being written waits for the earlier one instead.
        """
        with self._changed:
            self._refuse_late()
            key = submission.request_key
            if key is not None and (first := self._by_key.get(key)) is not None:
                assert first.submission is not None
                if not submission.is_repeat_of(first.submission.body_hash):
                    raise KeyReusedError()
                return _repeat_of(first.future)
            if self.is_full:
                raise QueueFullError("the queue of the warehouse is full")
            item = _Item(submission)
            if key is not None:
                self._by_key[key] = item
            self._enqueue(item)
        return item.future

    def compact(self) -> Future[Receipt]:
        """Request a compaction of the dirty tables, after queued submissions. Raises WarehouseDownError."""
        item = _Item(None)
        with self._changed:
            self._refuse_late()
            self._enqueue(item)
        return item.future

    def _refuse_late(self) -> None:
        if self._stopping:
            raise WarehouseDownError("the warehouse is closing")

    def _enqueue(self, item: _Item) -> None:
        item.future.set_running_or_notify_cancel()  # it cannot be cancelled from here on
        self._queue.append(item)
        self._queued_rows += item.rows
        self._changed.notify()

    def stop(self) -> None:
        """Write queued submissions, then end the thread. Blocks; idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                if group and group[0].submission is not None:
                    self._write(group)
                    self._compact_at = time.monotonic() + self._settings.compact_after
                elif group or self._is_compaction_due:
                    self._compact(group)
                    self._compact_at = time.monotonic() + self._settings.compact_after
            except Exception as error:  # noqa: BLE001 -- the thread's boundary: without answers clients would wait
                _log.error("the writer failed: %s", type(error).__name__)
                for item in group:
                    self._fail(item, WriteFailedError(f"the writer failed: {type(error).__name__}"))
            self._trim_if_due()

    def _next_group(self) -> list[_Item] | None:
        """Return the next items to handle together; empty when something else is due, None at the end."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._queue or self._stopping, self._patience()):
                return []
            group: list[_Item] = []
            rows = 0
            while self._queue and self._fits(group, rows):
                item = self._queue.popleft()
                rows += item.rows
                group.append(item)
            self._queued_rows -= rows
            return group or None

    @property
    def _wants_compaction(self) -> bool:
        # a compaction tests whether a problem is over; writes are rejected until then
        return self._commit is None or bool(self._commit.dirty) or self.problem is not None

    @property
    def _is_compaction_due(self) -> bool:
        return self._wants_compaction and time.monotonic() >= self._compact_at

    def _patience(self) -> float | None:
        """Return the seconds to wait for submissions until something else is due; None for no limit."""
        due = [self._compact_at] if self._wants_compaction else []
        if self._trimmer is not None:
            due.append(self._trimmer.due)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _fits(self, group: Sequence[_Item], rows: int) -> bool:
        if not group:
            return True
        limits = self._settings
        is_alone = group[0].submission is None or self._queue[0].submission is None
        return not is_alone and len(group) < limits.group_requests and rows < limits.group_rows

    def _write(self, group: Sequence[_Item]) -> None:
        commit = self._connected()
        if commit is None:
            for item in group:
                self._fail(item, WarehouseDownError(self.problem or "the warehouse is down"))
            return
        encoded: list[tuple[_Item, Encoded]] = []
        for item in group:
            assert item.submission is not None
            try:
                encoded.append((item, commit.encode(item.submission)))
            except ENCODING_ERRORS as error:
                self._fail(item, WriteFailedError(f"a row does not fit its table: {type(error).__name__}"))
        if encoded and not self._commit_together(encoded) and len(encoded) > 1:
            for pair in encoded:
                self._commit_together([pair])

    def _commit_fitting(self, item: _Item, encoded: Encoded) -> bool:
        """Commit a rejected submission without the rows that do not fit; return whether that worked."""
        commit = self._commit
        again = commit.encode_again(encoded) if commit is not None else None
        return again is not None and self._commit_together([(item, again)])

    def _commit_together(self, pairs: Sequence[tuple[_Item, Encoded]]) -> bool:
        """Commit and answer. After a failure answers only a lone submission; others are retried singly."""
        import duckdb

        commit = self._connected()
        error: Exception | None = None
        if commit is not None:
            try:
                receipts = commit.commit([encoded for _, encoded in pairs])
                self._check()  # again: the file may have gone meanwhile
            except (duckdb.Error, *ENCODING_ERRORS) as failure:
                error = failure
                self._recover(failure)
            except StateError as failure:
                self.problem = str(failure)
            else:
                self.problem = None
                for (item, _), receipt in zip(pairs, receipts, strict=True):
                    if isinstance(receipt, KeyReusedError):
                        self._fail(item, receipt)
                        continue
                    self._release(item)
                    item.future.set_result(receipt)
                return True
        if len(pairs) == 1:
            down = error is None or _is_storage(error)
            if not down and self._commit_fitting(*pairs[0]):
                return True
            text = self.problem if down else f"the warehouse rejected the rows: {type(error).__name__}"
            kind = WarehouseDownError if down else WriteFailedError
            self._fail(pairs[0][0], kind(text or "the warehouse is down"))
        return False

    def _compact(self, group: Sequence[_Item]) -> None:
        import duckdb

        commit = self._connected()
        if commit is not None:
            try:
                commit.compact(self._settings.ledger_days)
            except duckdb.Error as error:
                self._recover(error)
                commit = None
            else:
                self.problem = None
        for item in group:
            if commit is None:
                self._fail(item, WarehouseDownError(self.problem or "the compaction failed"))
            else:
                item.future.set_result(Receipt(0))

    def _trim_if_due(self) -> None:
        trimmer = self._trimmer
        if trimmer is None or self._stopping or time.monotonic() < trimmer.due:
            return
        trimmer.postpone()
        commit = self._connected()
        if commit is not None:
            try:
                commit.trim(trimmer, self._settings.ledger_days)
            except Exception as error:  # noqa: BLE001 -- the thread's boundary: writing must continue
                _log.warning("retention failed and will be retried: %s", type(error).__name__)
                self._recover(error)

    def _recover(self, error: Exception) -> None:
        """Roll back a failed transaction, or give up the connection if that is impossible."""
        import duckdb

        if _is_storage(error):
            self.problem = f"the warehouse's storage fails: {str(error).strip().splitlines()[0][:200]}"
        if not isinstance(error, duckdb.FatalException) and self._commit is not None:
            try:
                self._commit.rollback()
            except duckdb.TransactionException:
                pass  # a failed COMMIT has already ended the transaction
            except duckdb.Error:
                self._commit = None
            return
        self._commit = None

    def _connected(self) -> GroupCommit | None:
        """Return the committer, reconnected if necessary; None if that fails, see `problem`."""
        import duckdb

        try:
            self._check()
            if self._commit is None:
                self._reconnect()
                self._commit = GroupCommit(self._connect(), self._tables)
        except (duckdb.Error, EngineError) as error:
            self.problem = str(error).strip().splitlines()[0][:300]
            return None
        return self._commit

    def _release(self, item: _Item) -> None:
        key = item.submission.request_key if item.submission is not None else None
        if key is not None:
            with self._changed:
                self._by_key.pop(key, None)

    def _fail(self, item: _Item, error: Exception) -> None:
        self._release(item)
        if not item.future.done():
            item.future.set_exception(error)


def _is_storage(error: Exception | None) -> bool:
    """Return whether the disk or memory is at fault, not the rows."""
    import duckdb

    # with one writer there are no conflicts: a failed transaction means that the log was not written
    commit = (duckdb.TransactionException, duckdb.FatalException, duckdb.ConnectionException)
    return isinstance(error, (*commit, duckdb.IOException, duckdb.OutOfMemoryException))


def _repeat_of(first: Future[Receipt]) -> Future[Receipt]:
    """Return a future for a repeated request: the first one's receipt marked as a duplicate, or its error."""
    repeat: Future[Receipt] = Future()
    repeat.set_running_or_notify_cancel()

    def answer(done: Future[Receipt]) -> None:
        error = done.exception()
        if error is not None:
            repeat.set_exception(error)
        else:
            repeat.set_result(done.result().repeated())

    first.add_done_callback(answer)
    return repeat
