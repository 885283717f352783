"""Tables of DuckDB, PostgreSQL and ClickHouse behind one interface for tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import duckdb
import orjson
from pydantic import SecretStr

from connectors.clickhouse import ClickHouseConnection, ClickHouseSink, ClickHouseSinkParams
from connectors.duckdb import DuckdbSink, DuckdbSinkParams, DuckdbSource, DuckdbSourceParams
from connectors.postgres import (
    PostgresConnection,
    PostgresSink,
    PostgresSinkParams,
    PostgresSource,
    PostgresSourceParams,
)
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import BatchError
from tests.servers.clickhouse import PASSWORD, ClickHouse
from tests.servers.postgres import Postgres

__all__ = ["TABLE", "ClickHouseTarget", "DuckdbTarget", "PostgresTarget", "Target", "batch_of"]

TABLE = "tables.t"

_CATALOGUED = "database = 'tables' AND name = 't'"


def batch_of(records: Sequence[Any], start: int = 0, *, replay: bool = False) -> Batch:
    batch = Batch(list(records), KeyRange("k/", start, start + len(records)))
    batch.origins = [(SplitTracker("s", replay=replay).begin(len(records), None), len(records))]
    return batch


class Target(ABC):
    """A database with an empty schema `tables`; `ledger` is the table of entries for its tables.

    `timestamp` is a type of times with a zone.
    """

    ledger: str
    timestamp = "timestamptz"

    @abstractmethod
    def sql(self, query: str) -> list[Any]:
        """Rows of a query."""

    @abstractmethod
    def make_sink(self, **params: Any) -> DuckdbSink | PostgresSink | ClickHouseSink: ...

    def source(self, **params: Any) -> DuckdbSource | PostgresSource:
        raise NotImplementedError

    def sink(self, run: str = "r1", table: str = TABLE, **params: Any) -> Any:
        made = self.make_sink(table=table, **params)
        made.ctx = Context("p", "n", run)
        return made

    def rows(self, columns: str = "*") -> list[Any]:
        return self.sql(f"SELECT {columns} FROM {TABLE} ORDER BY 1")

    async def write(self, *pages: Sequence[Any], **params: Any) -> dict[int, str]:
        """A whole run; returns the kinds of failures of the last page."""
        failures: dict[int, str] = {}
        async with self.sink(**params) as opened:
            start = 0
            for page in pages:
                try:
                    await opened.write(batch_of(page, start))
                except BatchError as error:
                    failures = {index: one.kind for index, one in error.failures.items()}
                start += len(page)
            await opened.run_completed()
        return failures

    async def read(self, **params: Any) -> list[dict[str, Any]]:
        source = self.source(**params)
        async with source, aclosing(source.extract()) as pages:
            return [record async for page in pages for record in page]


class DuckdbTarget(Target):
    ledger = "main._odw_batches"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sql("CREATE SCHEMA tables")

    def sql(self, query: str) -> list[Any]:
        with duckdb.connect(str(self.file)) as connection:
            return connection.execute(query).fetchall()

    def make_sink(self, **params: Any) -> DuckdbSink:
        return DuckdbSink(DuckdbSinkParams(path=str(self.file), **params))

    def source(self, **params: Any) -> DuckdbSource:
        return DuckdbSource(DuckdbSourceParams(path=str(self.file), **params))


class PostgresTarget(Target):
    ledger = "tables._odw_batches"

    def __init__(self, server: Postgres) -> None:
        self.server = server
        server.start()
        server.sql("DROP SCHEMA IF EXISTS tables CASCADE; CREATE SCHEMA tables")

    def sql(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        return self.server.sql(query, values)

    def make_sink(self, **params: Any) -> PostgresSink:
        return PostgresSink(PostgresSinkParams(**params), self._connection)

    def source(self, **params: Any) -> PostgresSource:
        return PostgresSource(PostgresSourceParams(**params), self._connection)

    @property
    def _connection(self) -> PostgresConnection:
        return PostgresConnection(url=self.server.address())


class ClickHouseTarget(Target):
    ledger = "tables._odw_batches"
    timestamp = "DateTime64(6)"

    def __init__(self, server: ClickHouse) -> None:
        self.server = server
        server.start()
        server.sql("DROP DATABASE IF EXISTS tables")
        server.sql("CREATE DATABASE tables ENGINE = Atomic")

    def sql(self, query: str) -> list[Any]:
        return self.server.sql(query)

    def make_sink(self, **params: Any) -> ClickHouseSink:
        return ClickHouseSink(ClickHouseSinkParams(**params), self.connection)

    def rows(self, columns: str = "*") -> list[Any]:
        merged = self.sql(f"SELECT 1 FROM system.tables WHERE {_CATALOGUED} AND engine LIKE 'Replacing%'")
        return self.sql(f"SELECT {columns} FROM {TABLE} {'FINAL' if merged else ''} ORDER BY 1")

    async def read(self, **params: Any) -> list[dict[str, Any]]:
        columns = self.sql(
            f"SELECT name FROM system.columns WHERE {_CATALOGUED.replace('name', 'table')} "
            "AND default_kind = '' ORDER BY position"
        )
        names = [name for (name,) in columns]
        return [dict(zip(names, map(_decoded, row), strict=True)) for row in self.rows()]

    @property
    def connection(self) -> ClickHouseConnection:
        return ClickHouseConnection(url=self.server.url, password=SecretStr(PASSWORD))


def _decoded(value: Any) -> Any:
    """JSON is text in ClickHouse."""
    is_json = isinstance(value, str) and value.startswith("{") and value.endswith("}")
    return orjson.loads(value) if is_json and value != "{}" else value
