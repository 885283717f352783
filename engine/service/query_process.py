"""Run a query in a separate process, whose memory the kernel limits.

The process gets a file with the tables, and the rows of those that the query names, since it cannot open the
warehouse, which this process holds open for writing. Query and answer are JSON on its standard input and
output.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from engine.service.sql import (
    TOO_LONG,
    TOO_MUCH,
    QueryError,
    QueryLimits,
    QueryResult,
    bounded,
    current_views,
    explained,
    only_select,
    read_only,
    run_query,
    too_long,
)
from engine.service.sql_functions import is_watchable
from engine.service.storage import Reader
from engine.service.tables import quote

if TYPE_CHECKING:
    from engine.service.warehouse import Warehouse

_TO_START = 10.0  # seconds that the process may take in addition to the query
_CONFIG: Mapping[str, str | int] = {
    "threads": 2,
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "temp_directory": "",
}
_KEPT = ("LANG", "LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TZ")


def answer_query(warehouse: Warehouse, sql: str, limit: int, limits: QueryLimits) -> QueryResult:
    """Run one SELECT, in a separate process if a step may need much memory. Blocks. Raises QueryError."""
    began = time.monotonic()
    with warehouse.query_cursor() as cursor, explained():
        text, tree = only_select(cursor, sql)
    if is_watchable(tree):
        return run_query(warehouse.query_cursor, sql, limit, limits)
    with warehouse.storage.working_folder() as folder:
        file = _copied(warehouse, text, folder, limits)
        left = max(limits.seconds - (time.monotonic() - began), 0.1)
        try:
            found = _run_apart(file, text, limit, replace(limits, seconds=left))
        except QueryError as error:
            raise too_long(limits) if error.status == TOO_LONG else error from None
    return replace(found, seconds=time.monotonic() - began)


def _copied(warehouse: Warehouse, text: str, folder: Path, limits: QueryLimits) -> Path:
    """Create a file with all tables, and the current rows of those that the query may use."""
    file = folder / "warehouse.duckdb"  # with the same name, since a query may use it
    with warehouse.query_cursor() as cursor, explained(), bounded(cursor, limits):
        found = cursor.execute(
            "SELECT table_name, contains(text, lower(table_name)) OR contains(text, 'estimated_size') "
            "FROM duckdb_tables(), (SELECT lower(?::VARCHAR) AS text) "
            "WHERE database_name = current_database()",
            [text],
        ).fetchall()
        head = current_views(Reader(cursor))
        copy = quote(folder.name)
        cursor.execute(f"ATTACH '{str(file).replace(chr(39), chr(39) * 2)}' AS {copy}")
        try:
            for name, is_meant in found:
                rows = f"SELECT * FROM {quote(name)}{'' if is_meant else ' LIMIT 0'}"  # noqa: S608 -- quoted
                cursor.execute(f"CREATE TABLE {copy}.main.{quote(name)} AS {head}{rows}")
        finally:
            cursor.execute(f"DETACH {copy}")
    return file


def _run_apart(file: Path, sql: str, limit: int, limits: QueryLimits) -> QueryResult:
    """Run a query on the tables of a file in another process. Blocks. Raises QueryError."""
    question = {"file": str(file), "sql": sql, "limit": limit, "limits": limits}
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["MALLOC_ARENA_MAX"] = "1"  # each further thread would reserve 64 MiB of its address space
    try:
        done = subprocess.run(  # noqa: S603 -- our own interpreter and arguments
            [sys.executable, "-m", __name__],
            input=orjson.dumps(question),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=limits.seconds + _TO_START,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise too_long(limits) from None
    answer: dict[str, Any] = {}
    with suppress(orjson.JSONDecodeError):
        answer = orjson.loads(done.stdout)
    if "rows" in answer:
        return QueryResult(**answer)
    # a process that ends without output could not even allocate an error message
    raise QueryError(str(answer.get("error", TOO_MUCH)), int(answer.get("status", 413)))


def main() -> None:
    """Answer the query on standard input."""
    question = orjson.loads(sys.stdin.buffer.read())
    limits = QueryLimits(**question["limits"])
    answer: QueryResult | dict[str, object]
    try:
        config = {**_CONFIG, "memory_limit": f"{limits.memory}B"}
        connection = read_only(Path(question["file"]), config)
        _limit(limits)
        answer = run_query(connection.cursor, question["sql"], question["limit"], limits, is_current=True)
    except QueryError as error:
        answer = {"error": str(error), "status": error.status}
    except MemoryError:
        answer = {}
    sys.stdout.buffer.write(orjson.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # DuckDB's threads may still be running


def _limit(limits: QueryLimits) -> None:
    """Let the kernel stop usage far beyond the limits, even if the parent has been killed."""
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm", "rb") as file:
        reserved = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for kind, most in (
        (resource.RLIMIT_AS, reserved + 2 * limits.memory),
        (resource.RLIMIT_CPU, int(2 * limits.seconds) + 5),
        (resource.RLIMIT_CORE, 0),
    ):
        _, allowed = resource.getrlimit(kind)
        if allowed == resource.RLIM_INFINITY or most < allowed:
            resource.setrlimit(kind, (most, allowed))


if __name__ == "__main__":
    main()
