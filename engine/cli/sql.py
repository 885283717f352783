"""Query the warehouse of a state directory, or another DuckDB file, in SQL.

  python -m engine sql 'SELECT level, count(*) FROM Log GROUP BY level'
  python -m engine sql --database invoices.duckdb 'SELECT * FROM invoices'
  python -m engine sql --output csv - < query.sql
  python -m engine sql --snapshot

While one process has a DuckDB database open for writing, no other can open it. So while a service runs, the
query is sent to it, with the token in ODW_SERVICE_TOKEN, if set; otherwise the file is opened read-only.
--snapshot copies the warehouse into a file that any program with DuckDB can open. --database reads a file
that a `duckdb` sink has written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engine.cli.arguments import add_options
from engine.cli.options import SqlOptions

TIMEOUT = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, SqlOptions, "query", "database", "limit")
    form = parser.add_mutually_exclusive_group()
    add_options(form, SqlOptions, "output")
    form.add_argument(
        "--json", dest="output", action="store_const", const="json", help="the same as --output json"
    )
    add_options(parser, SqlOptions, "snapshot", "state_dir")


def execute(options: SqlOptions) -> int:
    """Print the rows; return 0 after a successful query."""
    from engine.errors import ConfigError
    from engine.service.discovery import find_running
    from engine.service.sql import MAX_ROWS

    if bool(options.query) == options.snapshot:
        raise ConfigError("give either a query or --snapshot")
    if options.database and options.snapshot:
        raise ConfigError("--snapshot copies the warehouse: leave --database out")
    if not 1 <= options.limit <= MAX_ROWS:
        raise ConfigError(f"--limit: expected 1 to {MAX_ROWS}, got {options.limit}")
    running = None if options.database else find_running(Path(options.state_dir))
    if options.snapshot:
        sys.stdout.write(f"{_snapshot(options, running.url if running else '')}\n")
        return 0
    query = sys.stdin.read() if options.query == "-" else options.query
    if running is not None:
        found = _asked(running.url, "/sql", {"sql": query, "limit": options.limit})
    else:
        found = _from_file(options, query)
    _show(found, options.output)
    if found["truncated"]:
        sys.stderr.write(f"only the first {options.limit} rows are shown; --limit shows more\n")
    return 0


def _asked(url: str, path: str, content: dict[str, object]) -> dict[str, Any]:
    import os

    import httpx

    from engine.errors import ConfigError, ServiceError

    token = os.environ.get("ODW_SERVICE_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        response = httpx.post(f"{url}{path}", json=content, headers=headers, timeout=TIMEOUT, trust_env=False)
    except httpx.HTTPError as error:
        raise ServiceError(f"cannot reach the ingest service at {url} ({type(error).__name__})") from error
    if response.status_code == 401:
        raise ServiceError(f"{url} requires a token: set ODW_SERVICE_TOKEN to the one for reading")
    if response.status_code == 200:
        return dict(response.json())
    try:
        message = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        message = f"{url}{path} answered {response.status_code}"
    raise ConfigError(message) if response.status_code < 500 else ServiceError(message)


def _from_file(options: SqlOptions, query: str) -> dict[str, Any]:
    import duckdb

    from engine.errors import ConfigError
    from engine.service.sql import QueryError, read_only, run_query
    from engine.service.storage import state_error

    path = _database(options.database) if options.database else _warehouse(options)
    try:
        connection = read_only(path)
    except duckdb.Error as error:
        raise state_error(error, path) from error
    try:
        # only the warehouse keeps replaced rows
        is_current = bool(options.database)
        return run_query(connection.cursor, query, options.limit, is_current=is_current).to_json()
    except QueryError as error:
        raise ConfigError(str(error)) from error


def _database(file: str) -> Path:
    from engine.errors import ConfigError

    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--database: file {file} does not exist")
    with path.open("rb") as opened:
        if opened.read(12)[8:] != b"DUCK":
            raise ConfigError(f"--database: {file} is not a DuckDB file")
    return path


def _warehouse(options: SqlOptions) -> Path:
    from engine.errors import ServiceError
    from engine.service.discovery import warehouse_file

    path = warehouse_file(Path(options.state_dir))
    if not path.exists():
        raise ServiceError(
            f"there is no warehouse at {path}: name its directory with --state-dir, or the file of a "
            "`duckdb` sink with --database"
        )
    return path


def _snapshot(options: SqlOptions, url: str) -> str:
    from engine.service.models import load_ingest_models
    from engine.service.warehouse import Warehouse

    if url:
        return str(_asked(url, "/snapshots", {})["file"])
    warehouse = Warehouse.open(_warehouse(options), load_ingest_models())
    try:
        return str(warehouse.snapshot())
    finally:
        warehouse.close()


def _show(found: dict[str, Any], output: str) -> None:
    names = [column["name"] for column in found["columns"]]
    if output == "json":
        import json

        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")
    elif output == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(found["rows"])
    else:
        sys.stdout.write("\n".join(_table(names, found["rows"])) + "\n")


_WIDEST = 60


def _table(names: list[str], rows: list[list[Any]]) -> list[str]:
    from engine.cli.display.table import aligned
    from engine.cli.display.terminal import printable

    texts = [[_text(value) for value in row] for row in rows]
    cells = [[printable(text).replace("\n", "⏎")[:_WIDEST] for text in row] for row in [names, *texts]]
    rule = ["-" * max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = aligned([cells[0], rule, *cells[1:]])
    return [*lines, f"({len(rows)} row{'s' if len(rows) != 1 else ''})"]


def _text(value: object) -> str:
    return "" if value is None else str(value)
