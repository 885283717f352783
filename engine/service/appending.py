"""Append rows to a DuckDB table: as Arrow columns where that is exact, else value by value.

Arrow costs a quarter of DuckDB's own appender. pyarrow is optional.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime
from functools import cache
from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from duckdb import DuckDBPyConnection

_MIN_ROWS = 100
"""Fewer rows are appended faster than a query is planned."""

_VIEW = "_odw_appended"

_NONE = type(None)


@cache
def has_arrow() -> bool:
    """Return whether pyarrow is installed; it is imported at its first use, in a tenth of a second."""
    return find_spec("pyarrow") is not None


def append(
    connection: DuckDBPyConnection,
    table: str,
    types: Mapping[str, str],
    columns: Sequence[Sequence[Any]],
) -> None:
    """Append rows, given as columns of values; `table` is quoted, `types` are names and SQL types in order.

    Raises duckdb.Error, or an error of DuckDB's appender for a value of another type.
    """
    arrow = _arrow_table(types, columns) if columns and len(columns[0]) >= _MIN_ROWS else None
    if arrow is not None:
        append_tables(connection, table, [arrow])
        return
    with connection.appender(table, columns=list(types)) as appender:
        appender.append_rows(list(zip(*columns, strict=True)))


def append_tables(connection: DuckDBPyConnection, table: str, tables: Sequence[pa.Table]) -> None:
    """Append the rows of Arrow tables, all of the same columns. Raises duckdb.Error."""
    import duckdb
    import pyarrow as pa

    rows = pa.concat_tables(tables)
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in rows.column_names)
    connection.register(_VIEW, rows)
    try:
        connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {_VIEW}")  # noqa: S608 -- quoted
    except duckdb.Error:
        with suppress(duckdb.Error):  # the transaction, and with it the view, has ended
            connection.unregister(_VIEW)
        raise
    connection.unregister(_VIEW)


def with_constant(rows: pa.Table, name: str, number: int) -> pa.Table:
    """Return the rows with an additional column that holds the same integer everywhere."""
    import pyarrow as pa

    return rows.append_column(name, pa.repeat(pa.scalar(number, pa.int64()), rows.num_rows))


def count_distinct(tables: Sequence[pa.Table]) -> int:
    """Return the number of distinct values in the first column of these tables."""
    import pyarrow as pa
    from pyarrow import compute

    chunks = [chunk for table in tables for chunk in table.column(0).chunks]
    found: int = compute.count_distinct(pa.chunked_array(chunks)).as_py()
    return found


def tuples_of(rows: pa.Table) -> list[tuple[Any, ...]]:
    """Return the rows as tuples of Python's values."""
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))


def _arrow_table(types: Mapping[str, str], columns: Sequence[Sequence[Any]]) -> pa.Table | None:
    if not has_arrow():
        return None
    import pyarrow as pa

    arrays = []
    for sql_type, values in zip(types.values(), columns, strict=True):
        array = arrow_column(sql_type, values)
        if array is None:
            return None
        arrays.append(array)
    return pa.table(arrays, names=list(types))


def arrow_column(sql_type: str, values: Collection[Any]) -> pa.Array | None:
    """Return the values as an Arrow array with exactly the values that the column would hold, or None.

    None for values that Arrow and DuckDB convert differently, or that only one of them accepts.
    """
    kind = arrow_type(sql_type)
    if kind is None or not _has_types(sql_type, values):
        return None
    import pyarrow as pa

    try:
        return pa.array(values, kind)
    except (ArithmeticError, TypeError, ValueError):  # pyarrow's errors are of these kinds
        return None


def _has_types(sql_type: str, values: Collection[Any]) -> bool:
    """Return whether the values have exactly these types; subclasses may need a conversion."""
    found = set(map(type, values)) - {_NONE}
    if not sql_type.endswith("[]"):
        exact = found <= _PYTHON_TYPES[sql_type]
        # DuckDB would convert a time with a zone by its session's zone
        return exact and (sql_type != "TIMESTAMP" or all(one is None or one.tzinfo is None for one in values))
    return found <= {list} and _has_types(sql_type[:-2], list(_items(values)))


def _items(values: Collection[Any]) -> Iterator[Any]:
    return chain.from_iterable(filter(None, values))


_PYTHON_TYPES: Mapping[str, frozenset[type]] = {
    "VARCHAR": frozenset({str}),
    "JSON": frozenset({str}),
    "BIGINT": frozenset({int}),
    "DOUBLE": frozenset({float, int}),
    "BOOLEAN": frozenset({bool}),
    "DATE": frozenset({date}),
    "TIMESTAMP": frozenset({datetime}),
}


@cache
def arrow_type(sql_type: str) -> pa.DataType | None:
    """Return the Arrow type of a column, or None for types that are only appended value by value."""
    import pyarrow as pa

    if sql_type.endswith("[]"):
        inner = arrow_type(sql_type[:-2])
        return None if inner is None else pa.list_(inner)
    return {
        "VARCHAR": pa.string(),
        "JSON": pa.string(),
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "BOOLEAN": pa.bool_(),
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us"),
    }.get(sql_type)
