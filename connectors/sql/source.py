"""The source `sql`."""
# ruff: noqa: S608 -- names are quoted, values are bound; a query is the user's own

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from connectors.sql.database import Database, SqlConnection, opened
from connectors.sql.values import bound, is_text, json_values, order_texts, order_values
from connectors.tables.names import quote
from connectors.tables.params import missing_column, unusable_key
from connectors.tables.source import OrderedSource, OrderedSourceParams, Page, Part, keeps_bookmarks
from engine.contract.component import Kind, component
from engine.errors import FatalError

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]


class SqlSourceParams(OrderedSourceParams):
    """Parameters of the `sql` source."""


@component(
    Kind.SOURCE,
    "sql",
    params=SqlSourceParams,
    connection=SqlConnection,
    extra="sql",
    bookmarks=keeps_bookmarks,
)
class SqlSource(OrderedSource[SqlSourceParams]):
    """Reads the rows of a table or a query of a database with an ADBC driver.

    With a `key`, rows are read in its order and named by it, in splits of `split_rows`, and a resumed run
    continues after the last one. With `incremental`, a run reads what has changed since the last run. Values
    become JSON: times are ISO 8601 text.
    """

    @property
    def _database(self) -> str:
        return self._connected().identity

    def _connected(self) -> SqlConnection:
        if not isinstance(self.connection, SqlConnection):
            raise FatalError("the sql source needs a connection with the `driver` of the database")
        return self.connection

    async def _bounds(self) -> list[Any]:
        # counted here: window functions and remainders differ between databases
        params, bounds, seen = self.params, list[Any](), 0
        key = self._column(params.key or "")
        query = f"SELECT {key} FROM {self._relation} ORDER BY {key}"
        async with opened(self._connected()) as database:
            self._check_columns(await database.columns(self._relation))
            async with aclosing(database.batches(query)) as batches:
                async for batch in batches:
                    column = batch.column(0)
                    if column.null_count:
                        raise unusable_key(params.key, "has no value in some rows")
                    first = params.split_rows - 1 - seen % params.split_rows
                    last_ones = column.take(_places(first, len(column), params.split_rows))
                    bounds += order_values(last_ones, params.key or "")
                    seen += len(column)
        return bounds[:-1] if bounds and seen % params.split_rows == 0 else bounds

    async def _pages(self, part: Part) -> AsyncGenerator[Page, None]:
        query, values = self._query(part)
        async with opened(self._connected()) as database:
            columns = await database.columns(self._relation)
            self._check_columns(columns)
            if self._connected().is_sqlite:
                await self._check_types(database, part, columns)
            async with aclosing(database.batches(query, values, rows=self.params.split_rows)) as batches:
                async for batch in batches:
                    for start in range(0, batch.num_rows, self.params.page_records):
                        yield self._page(batch.slice(start, self.params.page_records))

    def _page(self, rows: pa.RecordBatch) -> Page:
        columns = [
            json_values(column, name) for name, column in zip(rows.schema.names, rows.columns, strict=True)
        ]
        records = [dict(zip(rows.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
        if not self._order:
            return Page(records)
        order = [(name, rows.column(name)) for name in self._order]
        if self.params.incremental is not None and is_text(order[0][1].type):
            self._check_texts(order[0][1].to_pylist())
        orders = list(map(list, zip(*(order_values(column, name) for name, column in order), strict=True)))
        return Page(records, orders, list(zip(*(order_texts(column) for _, column in order), strict=True)))

    def _check_columns(self, columns: list[str]) -> None:
        for name in self._order:
            if name not in columns:
                raise missing_column(name, columns)

    async def _check_types(self, database: Database, part: Part, columns: list[str]) -> None:
        """Refuse values that SQLite's driver would convert to the column's single type. Raises FatalError."""
        kinds = ", ".join(kinds_of(self._column(name)) for name in columns)
        query, values = self._query(part, kinds, ordered=False)
        async with aclosing(database.batches(query, values)) as batches:
            async for batch in batches:
                for found in batch.to_pylist()[:1]:
                    check_kinds(dict(zip(columns, found.values(), strict=True)))

    @property
    def _relation(self) -> str:
        return self.params.quoted_relation(self._connected().mark)

    def _column(self, name: str) -> str:
        return f"q.{quote(name, self._connected().mark)}"

    def _query(
        self, part: Part, wanted: str = "q.*", *, ordered: bool = True
    ) -> tuple[str, pa.RecordBatch | None]:
        order = [self._column(name) for name in self._order]
        values: list[Any] = []

        def given(value: Any) -> str:
            values.append(value)
            return f"${len(values)}" if self._connected().numbered else "?"

        conditions: list[str] = []
        if part.after is not None:  # not every database can compare rows
            later = []
            for place in range(len(order)):
                same = [f"{order[one]} = {given(part.after[one])}" for one in range(place)]
                later.append(" AND ".join([*same, f"{order[place]} > {given(part.after[place])}"]))
            conditions.append(" OR ".join(f"({one})" for one in later))
        if part.until is not None:
            conditions.append(f"{order[0]} <= {given(part.until[0])}")
        if self.params.incremental is not None:
            conditions.append(f"{order[0]} IS NOT NULL")
        query = f"SELECT {wanted} FROM {self._relation}"
        if conditions:
            query += " WHERE " + " AND ".join(f"({one})" for one in conditions)
        if order and ordered:
            query += f" ORDER BY {', '.join(order)}"
        return query, _parameters(values)


def _parameters(values: list[Any]) -> pa.RecordBatch | None:
    import pyarrow as pa

    if not values:
        return None
    return pa.record_batch([bound(value) for value in values], names=[f"p{n}" for n in range(len(values))])


def _places(first: int, end: int, step: int) -> pa.Array:
    import pyarrow as pa

    return pa.array(range(first, end, step), pa.int64())


_EXACT: Final = 2**53
"""A float represents all integers up to this one."""

_LONG: Final = "long integer"
_CONVERTIBLE: Final = ({"integer", "real"}, {"integer", _LONG})


def kinds_of(column: str) -> str:
    """Return the SQL expression for the types of a column's values."""
    long = f"typeof({column}) = 'integer' AND {column} NOT BETWEEN -{_EXACT} AND {_EXACT}"
    return f"group_concat(DISTINCT CASE WHEN {long} THEN '{_LONG}' ELSE typeof({column}) END)"


def check_kinds(found: Mapping[str, str | None]) -> None:
    """Check the types of each column of SQLite, as returned by the database.

    The driver converts a column to one type: 2.5 becomes "2.500000e+00" if there is a text, a text becomes
    Base64 if there are bytes, and a long integer is rounded if there is a fraction.

    Raises:
        FatalError: the driver would change values.
    """
    for name, listed in found.items():
        kinds = set((listed or "").split(",")) - {"", "null"}
        if len(kinds) > 1 and not any(kinds <= one for one in _CONVERTIBLE):
            raise FatalError(
                f"the column {name!r} has values of several types ({', '.join(sorted(kinds))}), and the "
                "driver would change some: cast it in `query`",
                kind="schema",
            )
