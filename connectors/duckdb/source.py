"""The source `duckdb`."""
# ruff: noqa: S608 -- names are quoted or constants, values are bound; a query is the user's own

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from connectors.duckdb.database import Database, DuckdbParams
from connectors.json_lines import parse_json
from connectors.tables.isolation import RowsRefusedError
from connectors.tables.names import quote
from connectors.tables.params import TableSourceParams, missing_column, unusable_key
from connectors.tables.values import json_value
from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Locality, Source, component
from engine.contract.keys import KeyList, KeyRange, Keys
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import FatalError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PLAIN: Final = frozenset(
    {"BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
     "HUGEINT", "UHUGEINT", "FLOAT", "DOUBLE", "VARCHAR"}
)  # fmt: skip
_ZONED: Final = "TIMESTAMP WITH TIME ZONE"
_MOMENTS: Final = frozenset({"TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"})
_MICROSECONDS: Final = len("2026-01-01 12:00:00.123456")


class DuckdbSourceParams(TableSourceParams, DuckdbParams):
    """Parameters of the `duckdb` source."""


@component(Kind.SOURCE, "duckdb", params=DuckdbSourceParams, extra="tables", locality=Locality.MACHINE)
class DuckdbSource(Source[DuckdbSourceParams]):
    """Reads the rows of a table or a query of a DuckDB file.

    With a `key`, rows are read in its order and named by it, and a resumed run continues after the last one.
    Values become JSON: times are ISO 8601 text, JSON columns are objects and lists.
    """

    def __init__(self, params: DuckdbSourceParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self.repeatable = params.key is not None
        self._database: Database | None = None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Return one split: one reader reads the whole file."""
        yield Split("all")

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read the rows after `position`, `[rows before, the last key]`.

        Raises:
            FatalError: the file or the query cannot be read, or the key is missing or not unique.
        """
        before, last = position or (0, None)
        name = ctx.node or self.params.table or "query"  # two nodes may read the same table
        async with aclosing(self._pages(None if position is None else last)) as pages:
            async for records in pages:
                keys: Keys
                if self.params.key is None:
                    keys = KeyRange(f"{name}/", before, before + len(records))
                else:
                    named = [record[self.params.key] for record in records]
                    self._check(named, last)
                    keys, last = KeyList([f"{name}/{one}" for one in named], before, counted=True), named[-1]
                before += len(records)
                yield Batch(records, keys, position=[before, last])
                if ctx.draining():
                    return

    async def extract(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all rows, in lists, without a pipeline."""
        async with aclosing(self._pages(None)) as pages:
            async for records in pages:
                yield records

    async def _pages(self, after: Any) -> AsyncGenerator[list[dict[str, Any]], None]:
        database = await self._opened()
        result = None
        try:
            result, names, readers = await database.run(lambda connection: self._execute(connection, after))
            while rows := await database.run(lambda _: result.fetchmany(self.params.page_records)):
                columns = [
                    values if read is None else list(map(read, values))
                    for read, values in zip(readers, zip(*rows, strict=True), strict=True)
                ]
                yield [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        except RowsRefusedError as error:
            raise FatalError(f"the query cannot be read: {error}", kind="schema") from None
        finally:
            if result is not None:
                result.close()

    async def _opened(self) -> Database:
        # not when entered: a sink of the same file in this pipeline has to open it first, for writing
        if self._database is None:
            database = Database(self.params, read_only=True)
            self._stack.push_async_callback(database.close)
            await database.open()
            self._database = database
            self._stack.callback(setattr, self, "_database", None)
        return self._database

    def _execute(
        self, connection: DuckDBPyConnection, after: Any
    ) -> tuple[DuckDBPyConnection, list[str], list[Callable[[Any], Any] | None]]:
        params = self.params
        described = connection.execute(f"DESCRIBE SELECT * FROM {params.relation}").fetchall()
        types = {name: sql for name, sql, *_ in described}
        if params.key is not None and params.key not in types:
            raise missing_column(params.key, list(types))
        listed = ", ".join(_selected(name, sql) for name, sql in types.items())
        query = f"SELECT {listed} FROM {params.relation}"
        values: Sequence[Any] = ()
        if params.key is not None:
            key = f"q.{quote(params.key)}"
            if after is not None:
                query += f" WHERE {key} > CAST(? AS {types[params.key]}) OR {key} IS NULL"
                values = [after]
            query += f" ORDER BY {key}"
        cursor = connection.cursor()
        return cursor.execute(query, values), list(types), [_reader(sql) for sql in types.values()]

    def _check(self, keys: Sequence[Any], last: Any) -> None:
        if keys[-1] is None:  # nulls come last
            raise unusable_key(self.params.key, "has no value in some rows")
        if any(one == other for one, other in pairwise([last, *keys])):
            raise unusable_key(self.params.key, "names more than one row")


def _selected(name: str, sql: str) -> str:
    column = f"q.{quote(name)}"
    if sql == _ZONED:
        finite = f"replace(CAST(timezone('UTC', {column}) AS VARCHAR), ' ', 'T') || '+00:00'"
        column = f"CASE WHEN isinf({column}) THEN CAST({column} AS VARCHAR) ELSE {finite} END"
    elif sql == "DATE" or sql in _MOMENTS:  # Python has neither `infinity` nor nanoseconds
        column = f"CAST({column} AS VARCHAR)"
    elif _ZONED in sql:  # in a list or structure, which Python would get with the package pytz alone
        column = f"CAST({column} AS {sql.replace(_ZONED, 'VARCHAR')})"
    return f"{column} AS {quote(name)}"


def _reader(sql: str) -> Callable[[Any], Any] | None:
    if sql in _PLAIN or sql in (_ZONED, "DATE"):
        return None
    if sql in _MOMENTS:
        return _moment
    return _parsed if sql == "JSON" else json_value


def _moment(text: str | None) -> str | None:
    if text is None or len(text) > _MICROSECONDS:
        return text and text.replace(" ", "T")
    try:
        return datetime.fromisoformat(text).isoformat()
    except ValueError:  # beyond Python's calendar
        return text


def _parsed(text: str | None) -> Any:
    return None if text is None else parse_json(text)
