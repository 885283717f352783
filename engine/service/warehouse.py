"""The embedded warehouse: one DuckDB file, one writer, any number of readers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path

from engine.errors import StateError
from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.storage import Reader, Storage, state_error
from engine.service.submission import Receipt, Submission
from engine.service.tables import Table, tables_of
from engine.service.writer import Writer

__all__ = ["Warehouse"]


class Warehouse:
    """Use `open`, which creates what is missing. Methods may be called from any thread."""

    def __init__(self, storage: Storage, writer: Writer, tables: dict[str, Table]) -> None:
        self._storage = storage
        self._writer = writer
        self.tables = tables

    @classmethod
    def open(
        cls, path: Path, models: Iterable[IngestModel], settings: ServiceSettings | None = None
    ) -> Warehouse:
        """Open or create the file and start the writer; blocks for some 0.3 s.

        Raises StateError (or StateFullError, StateReadOnlyError, StateCorruptError, StateVersionError), and
        RegistryError when the models contradict one another.
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
    def is_full(self) -> bool:
        """Whether a write would be refused at present."""
        return self._writer.is_full

    @property
    def problem(self) -> str | None:
        """Why writing fails, or would fail; None while all is well."""
        try:
            self._storage.check_in_place()
        except StateError as error:
            return str(error)
        return self._writer.problem

    def submit(self, submission: Submission) -> Future[Receipt]:
        """Queue a submission; see `Writer.submit`."""
        return self._writer.submit(submission)

    async def write(self, submission: Submission) -> Receipt:
        """Submit and wait until it is committed; being cancelled does not take the submission back.

        Raises QueueFullError, WarehouseDownError, WriteFailedError, KeyReusedError.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(submission)))

    def reading(self) -> AbstractContextManager[Reader]:
        """A consistent look at the tables; blocking, so use it in a worker thread."""
        return self._storage.reading()

    def compact(self) -> None:
        """Remove the duplicates of dirty tables now instead of when idle. Blocks."""
        self._writer.compact().result()

    def close(self) -> None:
        """Write what was accepted, then close the file. Blocks; idempotent."""
        self._writer.stop()
        self._storage.close()
