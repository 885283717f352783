"""The embedded warehouse: one DuckDB file, one writer, any number of readers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import StateError
from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.storage import Reader, Storage, state_error
from engine.service.submission import Receipt, Submission
from engine.service.tables import Table, tables_of
from engine.service.writer import Writer

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

KEPT_SNAPSHOTS = 3


class Warehouse:
    """Use `open`, which creates what is missing. Methods may be called from any thread."""

    def __init__(self, storage: Storage, writer: Writer, tables: dict[str, Table]) -> None:
        self.storage = storage
        self.writer = writer
        self._snapshot_lock = threading.Lock()
        self.tables = tables

    @classmethod
    def open(
        cls, path: Path, models: Iterable[IngestModel], settings: ServiceSettings | None = None
    ) -> Warehouse:
        """Open or create the file and start the writer; blocks for about 0.3 s.

        Raises StateError (or StateFullError, StateReadOnlyError, StateCorruptError, StateVersionError), and
        RegistryError when the models contradict each other.
        """
        import duckdb

        settings = settings or ServiceSettings()
        tables = tables_of(models)
        storage = Storage(path, tables.values(), settings.memory_limit)
        storage.open()
        writer = Writer(
            storage.cursor, storage.reopen, tables.values(), settings, check=storage.check_in_place
        )
        try:
            writer.start()
        except duckdb.Error as error:
            storage.close()
            raise state_error(error, path) from error
        return cls(storage, writer, tables)

    @property
    def problem(self) -> str | None:
        """Why writing fails, or would fail; None if it works."""
        try:
            self.storage.check_in_place()
        except StateError as error:
            return str(error)
        return self.writer.problem

    def submit(self, submission: Submission) -> Future[Receipt]:
        """Queue a submission; see `Writer.submit`."""
        return self.writer.submit(submission)

    async def write(self, submission: Submission) -> Receipt:
        """Submit and wait for the commit; a cancellation does not withdraw the submission.

        Raises QueueFullError, WarehouseDownError, WriteFailedError, KeyReusedError.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(submission)))

    def reading(self) -> AbstractContextManager[Reader]:
        """Provide a consistent view of the tables; blocking, so use it in a worker thread."""
        return self.storage.reading()

    def query_cursor(self) -> AbstractContextManager[DuckDBPyConnection]:
        """Return a cursor for a user's query; see `sql.run_query`."""
        return self.storage.query_cursor()

    def snapshot(self) -> Path:
        """Copy the warehouse into a file that other processes can open, and return it. Blocks.

        The newest `KEPT_SNAPSHOTS` are kept. Raises StateError.
        """
        with self._snapshot_lock:
            self.compact()
            folder = self.storage.snapshots
            path = folder / f"warehouse-{datetime.now(UTC):%Y%m%dT%H%M%S%f}Z.duckdb"
            self.storage.snapshot(path)
            for old in sorted(folder.glob("warehouse-*.duckdb"))[:-KEPT_SNAPSHOTS]:
                old.unlink(missing_ok=True)
            return path

    def compact(self) -> None:
        """Remove the duplicates of dirty tables now instead of when idle. Blocks."""
        self.writer.compact().result()

    def close(self) -> None:
        """Write accepted submissions, then close the file. Blocks; idempotent."""
        self.writer.stop()
        self.storage.close()
