"""Tables of ClickHouse: names, types, columns, and the data of an INSERT.

Values that ClickHouse would silently change are refused: impossible dates, and numbers beyond its types.
"""
# ruff: noqa: S608 -- names and texts are quoted

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, InvalidOperation
from math import isfinite
from typing import Any, Final

import orjson

from connectors.clickhouse.client import Client, text
from connectors.tables.columns import Column, Dialect, ValueType
from connectors.tables.isolation import RowsRefusedError

BATCH: Final = "_odw_batch"
"""The column with the number of a row's batch. It is MATERIALIZED, so `SELECT *` omits it."""

DIALECT: Final = Dialect(
    database="ClickHouse",
    types={
        ValueType.BOOLEAN: "Bool",
        ValueType.INTEGER: "Int64",
        ValueType.FLOAT: "Float64",
        ValueType.NUMERIC: "Decimal(38, 9)",
        ValueType.TEXT: "String",
        ValueType.JSON: "String",
        ValueType.TIMESTAMP: "DateTime64(6, 'UTC')",
        ValueType.DATE: "Date32",
        ValueType.BYTES: "String",
    },
    integers={"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "INT": 32, "BIGINT": 64}
    | {f"INT{bits}": bits for bits in (8, 16, 32, 64)}
    # one bit more: they have no sign, and ClickHouse itself refuses a negative number
    | {f"UINT{bits}": bits + 1 for bits in (8, 16, 32, 64)},
    known={
        ValueType.BOOLEAN: ("BOOL", "BOOLEAN"),
        ValueType.FLOAT: ("FLOAT32", "FLOAT64", "DOUBLE PRECISION"),
        ValueType.NUMERIC: ("DECIMAL", "NUMERIC"),
        ValueType.TEXT: ("STRING", "TEXT", "VARCHAR"),
        ValueType.TIMESTAMP: ("DATETIME", "DATETIME64", "TIMESTAMP"),
        ValueType.DATE: ("DATE", "DATE32"),
    },
    reserved=frozenset({BATCH}),
)

_WRAPPED: Final = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)", re.S)
_PLACES: Final = re.compile(r"Decimal\(\d+, ?(\d+)\)")
_EXACT: Final = Context(prec=160, rounding=ROUND_HALF_UP)
_NESTED: Final = re.compile(r"(Array|Map|Tuple|Nested|JSON|Variant|Dynamic)\b")


def quoted(name: str) -> str:
    """Quote a name as an identifier; `database.table` as two."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def nullable(sql: str) -> str:
    """The type with null among its values, where ClickHouse has such a type."""
    low = re.fullmatch(r"LowCardinality\((.*)\)", sql, re.S)
    if low:
        return f"LowCardinality({nullable(low[1])})"
    return sql if _NESTED.match(sql) or sql.startswith("Nullable(") else f"Nullable({sql})"


def listed(names: Sequence[str], prefix: str = "") -> str:
    """Names of columns, separated by commas."""
    return ", ".join(prefix + quoted(name) for name in names)


def column_of(name: str, sql: str) -> Column:
    """An existing column."""
    plain = sql
    while wrapped := _WRAPPED.fullmatch(plain):
        plain = wrapped[1]
    found = DIALECT.column(name, plain)
    return Column(name, found.type, sql, found.bits)


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its full name, for statements and for the server's catalogue."""

    database: str
    name: str

    @classmethod
    def of(cls, table: str, database: str) -> Table:
        """`table` or `database.table`."""
        given, _, name = table.rpartition(".")
        return cls(given or database, name)

    @property
    def sql(self) -> str:
        """The name in a statement."""
        return f"{quoted(self.database)}.{quoted(self.name)}"

    def beside(self, name: str) -> Table:
        """Return another table of the same database."""
        return Table(self.database, name)

    def where(self, column: str = "name") -> str:
        """Return the condition that finds it in a table of `system`."""
        return f"database = {text(self.database)} AND {column} = {text(self.name)}"


async def table_columns(client: Client, table: Table) -> dict[str, Column]:
    """Return the columns that an INSERT may fill; empty if the table does not exist."""
    found = await client.fetch(
        f"SELECT name, type, default_kind FROM system.columns WHERE {table.where('table')} "
        "AND default_kind IN ('', 'DEFAULT') ORDER BY position"
    )
    return {name: replace(column_of(name, sql), default=kind != "") for name, sql, kind in found}


async def sorting_key(client: Client, table: Table) -> list[str]:
    """Return the columns of the sorting key."""
    found = await client.fetch(
        f"SELECT name FROM system.columns WHERE {table.where('table')} AND is_in_sorting_key"
    )
    return [name for (name,) in found]


def insert_data(columns: Sequence[Column], values: Sequence[Sequence[Any]], batch: int = 0) -> bytes:
    """Return the rows in the format JSONCompactColumns, with the number of their batch unless it is 0.

    Raises:
        RowsRefusedError: a value cannot be sent, or is missing where the column needs one. ClickHouse would
            put a zero or an empty text there.
    """
    sent = [_sent(column, given) for column, given in zip(columns, values, strict=True)]
    if batch:
        sent.append([batch] * len(values[0]))
    try:
        return orjson.dumps(sent, default=str)
    except orjson.JSONEncodeError:
        raise RowsRefusedError("the record has text that is not valid Unicode", kind="ValueRefused") from None


def _sent(column: Column, values: Sequence[Any]) -> Sequence[Any]:
    nested = _NESTED.match(column.sql)
    if None in values and not nested and "Nullable(" not in column.sql:
        raise RowsRefusedError(
            f"the column {column.name!r} is {column.sql}, and the record has no value for it",
            kind="ConstraintViolated",
        )
    check_ranges(column, values)
    types = set(map(type, values))
    if bytes in types:
        values = [_decoded(one) if type(one) is bytes else one for one in values]
    if column.type is ValueType.DATE:
        return [one if one is None else str(one)[:10] for one in values]  # of a time, the date
    if column.type is ValueType.NUMERIC and (places := _PLACES.search(column.sql)):
        return [None if one is None else _rounded(str(one), int(places[1])) for one in values]
    if column.type is ValueType.NUMERIC or (column.type is ValueType.OTHER and int in types):
        return [None if one is None else str(one) for one in values]  # numbers of any length
    if float in types and not all(isfinite(one) for one in values if type(one) is float):
        return [one if type(one) is not float or isfinite(one) else str(one) for one in values]
    if nested:
        return [orjson.Fragment(one) if type(one) is str and one[:1] in "[{" else one for one in values]
    return values


def _rounded(number: str, places: int) -> str:
    """The number with so many decimal places; ClickHouse would cut the others off (28.999999999999996)."""
    try:
        exact = _EXACT.create_decimal(number)
        exponent = exact.as_tuple().exponent
        if isinstance(exponent, int) and -exponent > places:
            return str(exact.quantize(_EXACT.scaleb(1, -places), context=_EXACT))
    except InvalidOperation:
        pass  # ClickHouse says what it is
    return number


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise RowsRefusedError(
            "the record has bytes that are not text: encode them as Base64 before the sink",
            kind="ValueRefused",
        ) from None


_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_LONG: Final = re.compile(r"(?:Nullable\()?(U?)Int(128|256)\)?")
_ITEMS: Final = re.compile(
    r"(?:Array\(|Map\([^,()]+, )(Nullable\()?(?:(U?)Int(8|16|32|64)|String|Bool|Float\d+|UUID|Date\d*)\)*"
)
_LAST_DAY: Final = "2149-06-06"
_SECONDS: Final = 2**32
_LARGEST_FLOAT32: Final = 3.4028235677973366e38


def check_ranges(column: Column, values: Sequence[Any]) -> None:
    """Check the values of a column.

    Raises:
        RowsRefusedError: ClickHouse would write another value.
    """
    if column.type in (ValueType.DATE, ValueType.TIMESTAMP):
        _check_days(column, [str(one) for one in values if one is not None])
    elif column.type is ValueType.FLOAT and "Float32" in column.sql:
        if any(_LARGEST_FLOAT32 < abs(one) < float("inf") for one in values if one is not None):
            raise _refused(column, "a number beyond its range")
    elif long := _LONG.fullmatch(column.sql):
        _check_integers(column, values, bool(long[1]), int(long[2]))
    elif items := _ITEMS.fullmatch(column.sql):
        inside = [item for one in values for item in _items(one)]
        if None in inside and not items[1]:
            raise _refused(column, "a null inside")
        if items[3]:
            _check_integers(column, inside, bool(items[2]), int(items[3]))


def _items(value: Any) -> Iterable[Any]:
    """Return the items of a list or mapping, or of its JSON text; ClickHouse refuses anything else."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return ()
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_integers(column: Column, values: Iterable[Any], unsigned: bool, bits: int) -> None:
    least, most = (0, 2**bits) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    if any(not least <= one < most for one in values if type(one) is int):
        raise _refused(column, "an integer beyond its range")


def _check_days(column: Column, texts: Sequence[str]) -> None:
    days = {text[:10] for text in texts}
    for day in filter(_DAY.fullmatch, days):
        try:
            date.fromisoformat(day)
        except ValueError:
            raise _refused(column, "a day that does not exist") from None
    name = re.sub(r"^(?:Nullable|LowCardinality)\(", "", column.sql)
    if re.match(r"Date\b", name) and any(
        not "1970-01-01" <= day <= _LAST_DAY for day in days if _DAY.fullmatch(day)
    ):
        raise _refused(column, f"a day before 1970-01-01 or after {_LAST_DAY}; Date32 has more")
    near_an_end = any(not "1970-01-01" < day < "2106-02-07" for day in days)
    if re.match(r"DateTime\b", name) and near_an_end and not all(map(_fits_seconds, texts)):
        raise _refused(column, "a time before 1970 or after 2106-02-07; DateTime64 has more")


def _fits_seconds(text: str) -> bool:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return True  # another notation, which ClickHouse reads or refuses
    return 0 <= (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() < _SECONDS


def _refused(column: Column, what: str) -> RowsRefusedError:
    return RowsRefusedError(
        f"the column {column.name!r} is {column.sql}, and the value is or has {what}", kind="ValueRefused"
    )
