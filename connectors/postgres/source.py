"""The source `postgres`."""
# ruff: noqa: S608 -- names are quoted, values are bound; a query is the user's own

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import BaseModel, Field, model_validator

from connectors.postgres.database import PostgresConnection, connected
from connectors.tables.isolation import RowsRefusedError
from connectors.tables.names import quote
from connectors.tables.params import TableSourceParams, missing_column, unusable_key
from connectors.tables.values import json_value
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, Kind, Source, component, operational
from engine.contract.keys import KeyList, KeyRange, Keys
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import FatalError

if TYPE_CHECKING:
    from connectors.postgres.database import Connection

__all__ = ["PostgresSource", "PostgresSourceParams"]

# what JSON has already: bool, int8, int2, int4, text, json, float4, float8, char, varchar, jsonb
_PLAIN: Final = frozenset({16, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 3802})
_MARK: Final = "delivered"


class PostgresSourceParams(TableSourceParams):
    """Parameters of the `postgres` source."""

    incremental: str | None = Field(
        default=None,
        description="Column that grows with every change, e.g. `updated_at`: read only the rows after those "
        "that earlier runs of the pipeline have delivered",
    )
    split_rows: int = operational(
        100_000, ge=1, description="Rows per split, the part of a run that one worker reads"
    )
    parallel: int = operational(2, ge=1, le=16, description="Splits that are read at the same time")

    @model_validator(mode="after")
    def _tells_rows_apart(self) -> Self:
        if self.incremental is not None and self.key is None:
            raise ValueError("`incremental` needs a `key`, which tells rows with the same value apart")
        return self


def _keeps_bookmarks(params: PostgresSourceParams) -> bool:
    return params.incremental is not None


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of a split: those after `after`, up to and including `until`; as text, one for each column."""

    after: list[str] | None = None
    until: list[str] | None = None


@component(
    Kind.SOURCE,
    "postgres",
    params=PostgresSourceParams,
    connection=PostgresConnection,
    extra="postgres",
    bookmarks=_keeps_bookmarks,
)
class PostgresSource(Source[PostgresSourceParams]):
    """Reads the rows of a table or a query of PostgreSQL.

    With a `key`, rows come in its order and are named by it, in splits of `split_rows`, and a resumed run
    continues after the last. With `incremental`, a run reads what has changed since the last one. Rows
    are fetched through a cursor of the server, so memory does not grow with the table. Columns become fields
    as JSON has them: times are ISO 8601 text.
    """

    def __init__(self, params: PostgresSourceParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self.repeatable = params.key is not None
        self.parallel_splits = 1 if params.incremental else params.parallel

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Ranges of keys with `split_rows` rows each; one split without a key, or with `incremental`.

        Raises:
            TransientError: the server cannot be reached.
            FatalError: the query cannot be read, or the key is missing or null in some rows.
        """
        params, place = self.params, self._place
        if params.key is None:
            yield Split("all", asdict(_Part()))
            return
        if params.incremental is not None:
            known = await ctx.bookmarks.get(place, [_MARK])
            yield Split("changed", asdict(_Part(after=known.get(_MARK))))
            return
        async with connected(self._connected()) as connection:
            bounds = await self._bounds(connection)
        for number, (after, until) in enumerate(pairwise([None, *bounds])):
            part = _Part(None if after is None else [after], None if until is None else [until])
            yield Split(f"{number:06d}", asdict(part), first_ordinal=number * params.split_rows)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read the rows of a split after `position`, `[rows before, the last row's order]`.

        Raises:
            TransientError: the server cannot be reached; everything before was yielded.
            FatalError: the query cannot be read, or the key is missing or not unique.
        """
        part = _Part(**split.manifest)
        before, after = position or (0, part.after)
        async with aclosing(self._pages(_Part(after, part.until))) as pages:
            async for records, orders in pages:
                keys: Keys
                first = split.first_ordinal + before
                if orders:
                    self._check(orders, after if position else None)
                    keys = KeyList(self._keys(orders), first, counted=True)
                    position = after = orders[-1]
                else:
                    keys = KeyRange(f"{self._name}/", first, first + len(records))
                before += len(records)
                batch = Batch(records, keys, position=[before, after])
                if self.params.incremental is not None:
                    batch.bookmarks = [Bookmark(self._place, _MARK, after)]
                yield batch
                if ctx.draining():
                    return

    async def extract(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all rows, in lists, without a pipeline."""
        async with aclosing(self.splits(self.ctx)) as splits:  # type: ignore[type-var]
            async for split in splits:
                async with aclosing(self._pages(_Part(**split.manifest))) as pages:
                    async for records, _ in pages:
                        yield records

    @property
    def _name(self) -> str:
        return self.ctx.node or self.params.table or "query"  # two nodes may read the same table

    def _keys(self, orders: Sequence[Sequence[str]]) -> list[str]:
        """The keys of rows. A row that changes while a run is interrupted comes again, as another record."""
        if self.params.incremental is None:
            return [f"{self._name}/{key}" for (key,) in orders]
        return [f"{self._name}/{key}@{changed}" for changed, key in orders]

    @property
    def _place(self) -> str:
        """What bookmarks are about: another query or another database has others."""
        what = f"{self.params.relation}\n{self.params.key}\n{self.params.incremental}"
        return f"{self._connected().place}/{sha256(what.encode()).hexdigest()[:12]}"

    @property
    def _order(self) -> list[str]:
        """The columns that rows are ordered by."""
        return [name for name in (self.params.incremental, self.params.key) if name is not None]

    def _connected(self) -> PostgresConnection:
        if not isinstance(self.connection, PostgresConnection):
            raise FatalError("the postgres source needs a connection with the `url` of the database")
        return self.connection

    async def _bounds(self, connection: Connection) -> list[str | None]:
        """The last key of each split but the last, and None for that: it has no end.

        Without an end, rows are read that are added meanwhile; each row is read once in any case.
        """
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
            return [*[bound async for (bound,) in bounds], None]

    async def _types(self, connection: Connection) -> dict[str, str]:
        """The columns and their types, as SQL."""
        cursor = await connection.execute(f"SELECT * FROM {self.params.relation} LIMIT 0".encode())
        columns = cursor.description or []
        for name in self._order:
            if name not in (known := [column.name for column in columns]):
                raise missing_column(name, known)
        types = await connection.execute(
            "SELECT format_type(oid, NULL) FROM unnest(%s::oid[]) WITH ORDINALITY AS t(oid, n) ORDER BY n",
            [[column.type_code for column in columns]],
        )
        return {column.name: sql for column, (sql,) in zip(columns, await types.fetchall(), strict=True)}

    async def _pages(self, part: _Part) -> AsyncGenerator[tuple[list[dict[str, Any]], list[list[str]]], None]:
        """Records, and for each the texts of the columns that it is ordered by."""
        order = self._order
        try:
            async with connected(self._connected()) as connection:
                types = await self._types(connection)
                query, values = self._query(types, part)
                async with connection.transaction(), connection.cursor(name="odw_rows") as cursor:
                    await cursor.execute(query.encode(), values)
                    columns = cursor.description or []
                    names = [column.name for column in columns][len(order) :]
                    readers = [_reader(column.type_code) for column in columns][len(order) :]
                    while rows := await cursor.fetchmany(self.params.page_records):
                        orders = [list(row[: len(order)]) for row in rows] if order else []
                        read = [
                            column if reader is None else tuple(map(reader, column))
                            for reader, column in zip(
                                readers, list(zip(*rows, strict=True))[len(order) :], strict=True
                            )
                        ]
                        yield [dict(zip(names, row, strict=True)) for row in zip(*read, strict=True)], orders
        except RowsRefusedError as error:
            raise FatalError(
                f"the rows cannot be read: {error}; cast the column to text in `query`", kind="schema"
            ) from None

    def _query(self, types: dict[str, str], part: _Part) -> tuple[str, Sequence[Any] | None]:
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

    def _check(self, orders: Sequence[Sequence[str]], last: Sequence[str] | None) -> None:
        keys = [order[-1] for order in orders]
        if None in keys:
            raise unusable_key(self.params.key, "has no value in some rows")
        if any(one == other for one, other in pairwise([last, *orders])):
            raise unusable_key(self.params.key, "names more than one row")


def _reader(type_code: int) -> Callable[[Any], Any] | None:
    return None if type_code in _PLAIN else json_value
