"""The source `postgres`."""
# ruff: noqa: S608 -- names are quoted, values are bound; a query is the user's own

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import datetime, time
from typing import TYPE_CHECKING, Any, Final

from connectors.postgres.database import PostgresConnection, connected
from connectors.tables.isolation import RowsRefusedError
from connectors.tables.names import quote
from connectors.tables.params import missing_column, unusable_key
from connectors.tables.source import OrderedSource, OrderedSourceParams, Page, Part, keeps_bookmarks
from connectors.tables.values import json_value
from engine.contract.component import Kind, component
from engine.errors import FatalError

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

# types that need no conversion to JSON: bool, int8, int2, int4, text, json, float4, float8, char, varchar,
# jsonb; and those that `read_times` reads as text
_PLAIN: Final = frozenset({16, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 3802, 1082, 1083, 1114, 1184, 1266})
_TEXTS: Final = frozenset({"text", "character varying", "character", "citext"})
_ENDLESS: Final = ("infinity", "Infinity", "NaN")


class PostgresSourceParams(OrderedSourceParams):
    """Parameters of the `postgres` source."""


@component(
    Kind.SOURCE,
    "postgres",
    params=PostgresSourceParams,
    connection=PostgresConnection,
    extra="postgres",
    bookmarks=keeps_bookmarks,
)
class PostgresSource(OrderedSource[PostgresSourceParams]):
    """Reads the rows of a table or a query of PostgreSQL.

    With a `key`, rows are read in its order and named by it, in splits of `split_rows`, and a resumed run
    continues after the last one. With `incremental`, a run reads what has changed since the last run. Rows
    are fetched through a server-side cursor, so memory does not grow with the table. Values become JSON:
    times are ISO 8601 text.
    """

    @property
    def _database(self) -> str:
        return self._connected().place

    def _connected(self) -> PostgresConnection:
        if not isinstance(self.connection, PostgresConnection):
            raise FatalError("the postgres source needs a connection with the `url` of the database")
        return self.connection

    async def _bounds(self) -> list[str]:
        async with connected(self._connected()) as connection:
            return await self._keys_between(connection)

    async def _keys_between(self, connection: Connection) -> list[str]:
        assert self.params.key is not None
        await self._types(connection)
        key = f"q.{quote(self.params.key)}"
        cursor = await connection.execute(
            f"SELECT 1 FROM {self.params.relation} WHERE {key} IS NULL LIMIT 1".encode()
        )
        if await cursor.fetchall():
            raise unusable_key(self.params.key, "has no value in some rows")
        async with connection.transaction(), connection.cursor(name="odw_splits") as bounds:
            await bounds.execute(
                f"SELECT k::text FROM (SELECT {key} AS k, row_number() OVER (ORDER BY {key}) AS n, "
                f"count(*) OVER () AS total FROM {self.params.relation.replace('%', '%%')}) AS numbered "
                f"WHERE n %% %s = 0 AND n < total ORDER BY n".encode(),
                [self.params.split_rows],
            )
            return [bound async for (bound,) in bounds]

    async def _types(self, connection: Connection) -> dict[str, str]:
        """Return the columns and their SQL types."""
        cursor = await connection.execute(f"SELECT * FROM {self.params.relation} LIMIT 0".encode())
        columns = cursor.description or []
        for name, times in Counter(column.name for column in columns).items():
            if times > 1:
                raise FatalError(f"two columns are called {name!r}: rename one in `query`", kind="schema")
        for name in self._order:
            if name not in (known := [column.name for column in columns]):
                raise missing_column(name, known)
        await _read_arrays(connection, [column.type_code for column in columns])
        types = await connection.execute(
            "SELECT format_type(oid, NULL) FROM unnest(%s::oid[]) WITH ORDINALITY AS t(oid, n) ORDER BY n",
            [[column.type_code for column in columns]],
        )
        return {column.name: sql for column, (sql,) in zip(columns, await types.fetchall(), strict=True)}

    async def _pages(self, part: Part) -> AsyncGenerator[Page, None]:
        order = self._order
        try:
            async with connected(self._connected()) as connection:
                read_times(connection)
                types = await self._types(connection)
                query, values = self._query(types, part)
                async with connection.transaction(), connection.cursor(name="odw_rows") as cursor:
                    await cursor.execute(query.encode(), values)
                    columns = cursor.description or []
                    names = [column.name for column in columns][len(order) :]
                    readers = [_reader(column.type_code) for column in columns][len(order) :]
                    while rows := await cursor.fetchmany(self.params.page_records):
                        orders = [list(row[: len(order)]) for row in rows] if order else []
                        self._check_changes(orders, types)
                        read = [
                            column if reader is None else tuple(map(reader, column))
                            for reader, column in zip(
                                readers, list(zip(*rows, strict=True))[len(order) :], strict=True
                            )
                        ]
                        records = [dict(zip(names, row, strict=True)) for row in zip(*read, strict=True)]
                        yield Page(records, orders)
        except RowsRefusedError as error:
            raise FatalError(
                f"the rows cannot be read: {error}; cast the column to text in `query`", kind="schema"
            ) from None

    def _check_changes(self, orders: Sequence[Sequence[Any]], types: dict[str, str]) -> None:
        """Refuse values of `incremental` after which a later run would find nothing. Raises FatalError."""
        name = self.params.incremental
        if name is None:
            return
        if orders[-1][0] in _ENDLESS:
            raise FatalError(
                f"{name!r} is infinite in some rows, and nothing comes after these: leave them out in "
                "`query`",
                kind="schema",
            )
        if types[name] in _TEXTS:
            self._check_texts(order[0] for order in orders)

    def _query(self, types: dict[str, str], part: Part) -> tuple[str, Sequence[Any] | None]:
        order = [f"q.{quote(name)}" for name in self._order]
        texts = "".join(f"{column}::text, " for column in order)
        # a percent sign of the user's query is not a placeholder
        query = f"SELECT {texts}q.* FROM {self.params.relation.replace('%', '%%')}"
        values: list[Any] = []
        conditions: list[str] = []
        given = ", ".join(f"CAST(%s AS {types[name]})" for name in self._order)
        for bound, sign in ((part.after, ">"), (part.until, "<=")):
            if bound is not None:
                conditions.append(f"({', '.join(order)}) {sign} ({given})")
                values += bound
        if self.params.incremental is not None:
            conditions.append(f"{order[0]} IS NOT NULL")
        if conditions:
            query += f" WHERE {' AND '.join(conditions)}"
        if order:
            query += f" ORDER BY {', '.join(order)}"
        return (query, values) if values else (query.replace("%%", "%"), None)


def _reader(type_code: int) -> Callable[[Any], Any] | None:
    return None if type_code in _PLAIN else json_value


def read_times(connection: Connection) -> None:
    """Have a connection read dates and times as text: `infinity` and a year BC are no error."""
    from psycopg.adapt import Buffer, Loader

    class Text(Loader):
        def load(self, data: Buffer) -> str:
            return str(data, "utf-8")

    class Moment(Text):
        kind: type[datetime | time] = datetime

        def load(self, data: Buffer) -> str:
            text = super().load(data)
            try:
                return self.kind.fromisoformat(text).isoformat()
            except ValueError:
                return text

    class Time(Moment):
        kind = time

    for kind in ("timestamp", "timestamptz"):
        connection.adapters.register_loader(kind, Moment)
    for kind in ("time", "timetz"):
        connection.adapters.register_loader(kind, Time)
    connection.adapters.register_loader("date", Text)


async def _read_arrays(connection: Connection, type_codes: Sequence[int]) -> None:
    """Have a connection read arrays of the database's own types, such as enums, as lists."""
    from psycopg.types import TypeInfo
    from psycopg.types.array import register_array

    unknown = [code for code in type_codes if connection.adapters.types.get(code) is None]
    if not unknown:
        return
    arrays = await connection.execute(
        "SELECT a.typname, coalesce(nullif(item.typbasetype, 0), item.oid), a.oid, item.typdelim "
        "FROM pg_type a JOIN pg_type item ON item.oid = a.typelem "
        "WHERE a.typcategory = 'A' AND a.oid = ANY(%s)",
        [unknown],
    )
    for name, item, array, delimiter in await arrays.fetchall():
        register_array(TypeInfo(name, item, array, delimiter=delimiter), connection)
