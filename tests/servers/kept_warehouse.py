"""A warehouse as new, without the time that DuckDB takes to open one: emptied after one test for the next.

For tests that look at a warehouse through its methods or its service alone. What looks at the file, breaks
it, or opens it again needs a warehouse of its own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.storage import Storage
from engine.service.tables import Table, quote, tables_of
from engine.service.warehouse import Warehouse
from engine.service.writer import Writer

__all__ = ["KeptWarehouses", "Opening"]

Opening = Callable[[Path, Iterable[IngestModel]], Warehouse]
"""`Warehouse.open`, or one of a kept warehouse."""


class KeptWarehouses:
    """The open databases of a test process: for each set of tables as many as are used at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free: dict[object, list[Storage]] = {}
        self._all: list[Storage] = []

    def open(
        self, path: Path, models: Iterable[IngestModel], settings: ServiceSettings | None = None
    ) -> Warehouse:
        """As `Warehouse.open`, but only the folder of the path is created."""
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = settings or ServiceSettings()
        tables = tables_of(models)
        columns = [(table.name, *table.stored_types.items()) for table in tables.values()]
        free = self._free.setdefault((settings.memory_limit, *columns), [])
        storage = free.pop() if free else self._new(tables, settings)
        writer = Writer(
            storage.cursor, storage.reopen, tables.values(), settings, check=storage.check_in_place
        )
        writer.start()
        return _Lent(storage, writer, tables, free)

    def _new(self, tables: dict[str, Table], settings: ServiceSettings) -> Storage:
        folder = self._folder / str(len(self._all))
        storage = Storage(folder / "warehouse.duckdb", tables.values(), settings.memory_limit)
        storage.open()
        self._all.append(storage)
        return storage

    def close(self) -> None:
        """Close all databases, whoever uses them."""
        for storage in self._all:
            storage.close()


class _Lent(Warehouse):
    """Closing it gives the database back; one that cannot be emptied is not used again."""

    def __init__(
        self, storage: Storage, writer: Writer, tables: dict[str, Table], free: list[Storage]
    ) -> None:
        super().__init__(storage, writer, tables)
        self._free: list[Storage] | None = free

    def close(self) -> None:
        self.writer.stop()
        free, self._free = self._free, None
        if free is not None:
            _empty(self.storage)
            free.append(self.storage)


def _empty(storage: Storage) -> None:
    cursor = storage.cursor()
    tables = [name for (name,) in cursor.execute("SHOW TABLES").fetchall()]
    emptied = [f"DELETE FROM {quote(name)}" for name in tables if name not in ("_odw_meta", "_odw_tables")]
    reset = ["UPDATE _odw_tables SET dirty = false", "UPDATE _odw_meta SET accounts_since = NULL"]
    cursor.execute("; ".join(["BEGIN", *emptied, *reset, "COMMIT"]))
    cursor.close()
    shutil.rmtree(storage.snapshots, ignore_errors=True)
