"""One SELECT over the warehouse, bounded in time, memory and rows.

Three measures keep queries read-only: a query must parse as one SELECT with only harmless table functions, it
runs in a read-only transaction, and the database is opened without access to files, the network or
extensions, and with its configuration locked (`storage`).
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine.service.sql_functions import TABLE_FUNCTIONS, nodes_of
from engine.service.storage import Reader
from engine.service.tables import SEQUENCE, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_ROWS: Final = 10_000
MAX_SQL: Final = 64 * 1024
TOO_LONG: Final = 408
TOO_MUCH: Final = "The query needs more memory than it may use: ask for less at a time"
_MAX_RESULT = 8 * 1024 * 1024
_PAGE = 200
_CHECK_EVERY = 0.02
_INEXACT = re.compile(r"TIME ZONE|\bINTERVAL\b|_NS\b")


class QueryError(Exception):
    """A query cannot be answered. `status` is that of the HTTP answer; the message is for the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Limits of a query: `seconds` of running time, and bytes of `memory` growth."""

    seconds: float = 10.0
    memory: int = 256 * 1024 * 1024


def too_long(limits: QueryLimits) -> QueryError:
    """Return the error of a query that exceeds its time."""
    return QueryError(f"The query ran longer than {limits.seconds:g} seconds", TOO_LONG)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Columns as (name, SQL type), rows of JSON-safe values. `truncated`: there are more rows."""

    columns: list[tuple[str, str]]
    rows: list[list[Any]]
    truncated: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the answer of the route."""
        columns = [{"name": name, "type": kind} for name, kind in self.columns]
        rest = {"truncated": self.truncated, "seconds": round(self.seconds, 4)}
        return {"columns": columns, "rows": self.rows, **rest}


def run_query(
    cursor_of: Callable[[], AbstractContextManager[DuckDBPyConnection]],
    sql: str,
    limit: int = 1_000,
    limits: QueryLimits | None = None,
    *,
    is_current: bool = False,
) -> QueryResult:
    """Run one SELECT and return at most `limit` rows. Blocks, so use it in a worker thread.

    `cursor_of` returns a cursor for one query, without a transaction.

    Tables show their current rows, without the duplicates of dirty tables; `is_current` means that there are
    none.

    Raises:
        QueryError: it is not one SELECT, it is wrong, or it exceeds its limits.
    """
    began = time.monotonic()
    with cursor_of() as cursor, explained(), bounded(cursor, limits or QueryLimits()):
        statement, _ = only_select(cursor, sql)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        head = "" if is_current else current_views(Reader(cursor))
        columns, result = _execute(cursor, head, f"(\n{statement}\n)", min(limit, MAX_ROWS) + 1)
        rows, truncated = _fetch(result, min(limit, MAX_ROWS))
    return QueryResult(columns, rows, truncated, time.monotonic() - began)


def read_only(file: Path, config: Mapping[str, str | int] | None = None) -> DuckDBPyConnection:
    """Open a file for queries of its tables only, without access to anything else. Raises duckdb.Error."""
    import duckdb

    connection = duckdb.connect(str(file), read_only=True, config={**(config or {})})
    for setting in ("enable_external_access = false", "lock_configuration = true"):
        connection.execute(f"SET {setting}")
    return connection


@contextmanager
def explained() -> Iterator[None]:
    """Raise DuckDB's errors as QueryError."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise QueryError(TOO_MUCH, 413) from error
    except duckdb.PermissionException as error:
        raise QueryError("Queries can read the warehouse's tables only, no files or addresses") from error
    except duckdb.Error as error:
        raise QueryError(_plainly(error)) from error


def only_select(cursor: DuckDBPyConnection, sql: str) -> tuple[str, Any]:
    """Return the only SELECT as text, and its serialised form. Raises QueryError."""
    import duckdb

    if len(sql.encode("utf-8", "replace")) > MAX_SQL or "\0" in sql:
        raise QueryError(f"A query has at most {MAX_SQL // 1024} KiB of text, without null characters")
    try:
        statements = duckdb.extract_statements(sql)
    except UnicodeEncodeError:
        raise QueryError("The query is not valid text: half of a surrogate pair cannot be sent") from None
    if len(statements) != 1:
        raise QueryError(f"Send one query at a time, got {len(statements)}")
    (statement,) = statements
    try:
        kind = statement.type
    except ValueError:  # a statement type unknown to DuckDB's Python package
        raise QueryError("Only SELECT can be run here") from None
    if kind is duckdb.StatementType.MULTI:
        raise QueryError("Name the values of PIVOT, as in PIVOT … ON level IN ('INFO', 'WARN') USING …")
    if kind is not duckdb.StatementType.SELECT:
        raise QueryError(f"Only SELECT can be run here, not {kind.name}")
    text = _without_end(statement.query)
    parsed = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchone()
    try:
        tree = orjson.loads(parsed[0]) if parsed else {"error": True}
    except orjson.JSONDecodeError:  # the only possible error with DuckDB's own output
        raise QueryError("The query is nested too deeply") from None
    if not tree.get("error"):  # DESCRIBE and SHOW have no serialised form, and no functions
        for node in nodes_of(tree):
            name = str(node.get("function", {}).get("function_name", ""))
            if node.get("type") == "TABLE_FUNCTION" and name.lower() not in TABLE_FUNCTIONS:
                raise QueryError(f"The table function {name} cannot be used here")
    elif not text.lower().startswith(("describe", "desc", "show", "summarize")):
        raise QueryError("Only SELECT, DESCRIBE, SHOW and SUMMARIZE can be run here")
    return text, tree


def _without_end(sql: str) -> str:
    """Return the first statement of a text, without its semicolon and anything after it, such as comments."""
    import duckdb

    text = sql.encode()  # positions are in bytes
    for place, kind in duckdb.tokenize(sql):
        if kind == duckdb.token_type.operator and text[place : place + 1] == b";" and text[:place].strip():
            return text[:place].decode().strip()
    return sql.strip()


def current_views(reader: Reader) -> str:
    """Return the WITH clause through which a query sees only current rows of dirty tables; "" without any."""
    # only tables whose rows replace one another by their first column, `id`, are ever dirty
    dirty = reader.execute("SELECT DISTINCT table_name FROM _odw_tables WHERE dirty").fetchall()
    views = [
        f"{quote(name)} AS (SELECT * FROM main.{quote(name)} QUALIFY row_number() OVER "  # noqa: S608
        f"(PARTITION BY id ORDER BY {SEQUENCE} DESC) = 1)"
        for (name,) in dirty
    ]
    return f"WITH {', '.join(views)} " if views else ""


def _execute(
    cursor: DuckDBPyConnection, head: str, source: str, limit: int
) -> tuple[list[tuple[str, str]], DuckDBPyConnection]:
    """Return columns as (name, type), and the result to fetch from.

    Values without an exact Python type are text: intervals of months, nanoseconds, times with a zone.
    """
    result = cursor.execute(f"{head}SELECT * FROM {source} AS query LIMIT {limit}")  # noqa: S608 -- checked above
    columns = [(str(one[0]), str(one[1])) for one in result.description or ()]
    if any(_INEXACT.search(kind) for _, kind in columns):
        names = [f"_{place}" for place in range(len(columns))]
        texts = [
            f"CAST({name} AS VARCHAR)" if _INEXACT.search(kind) else name
            for name, (_, kind) in zip(names, columns, strict=True)
        ]
        result = cursor.execute(
            f"{head}SELECT {', '.join(texts)} FROM {source} AS query({', '.join(names)}) LIMIT {limit}"  # noqa: S608
        )
    return columns, result


def _fetch(result: DuckDBPyConnection, limit: int) -> tuple[list[list[Any]], bool]:
    rows: list[list[Any]] = []
    size = 0
    while page := result.fetchmany(_PAGE):
        for row in page:
            if len(rows) == limit:
                return rows, True
            values = [_plain(value) for value in row]
            size += _size(values) - 16
            if size > _MAX_RESULT:
                raise QueryError(f"The result is larger than {_MAX_RESULT >> 20} MiB: ask for less", 413)
            rows.append(values)
    return rows, False


def _size(value: Any) -> int:
    """Estimate the bytes of a plain value in an answer, including nested values."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return 16 + sum(map(_size, value))
    return sum(len(name) + _size(one) for name, one in value.items()) if isinstance(value, dict) else 16


def _plain(value: Any) -> Any:
    """Convert a value to JSON-safe types; numbers beyond 64 bits and other types become text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(_plain(name)): _plain(one) for name, one in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    return format(value, "f") if isinstance(value, Decimal) else str(value)


@contextmanager
def bounded(cursor: DuckDBPyConnection, limits: QueryLimits) -> Iterator[None]:
    """Interrupt the cursor's query when it exceeds its limits, and raise QueryError."""
    import duckdb

    done = threading.Event()
    reasons: list[QueryError] = []
    began, at_first = time.monotonic(), _resident()

    def watch() -> None:
        while not done.wait(_CHECK_EVERY):
            if time.monotonic() - began > limits.seconds:
                reasons.append(too_long(limits))
            elif _resident() - at_first > limits.memory:
                reasons.append(QueryError(TOO_MUCH, 413))
            if reasons:
                cursor.interrupt()

    watcher = threading.Thread(target=watch, name="query-limits", daemon=True)
    watcher.start()
    try:
        yield
    except (duckdb.InterruptException, QueryError):
        if reasons:
            raise reasons[0] from None
        raise
    finally:
        done.set()
        watcher.join()


def _resident() -> int:
    """Return the memory of this process in bytes; 0 where the system does not report it."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


def _plainly(error: Exception) -> str:
    """Return the message of an error in a query, without DuckDB's marker lines."""
    text = str(error).strip().split("\n\n", 1)[0]
    if text.startswith("INTERNAL"):
        return "DuckDB failed at this query"
    return " ".join(text.split())[:600]
