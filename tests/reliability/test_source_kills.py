"""Sources of databases and APIs under SIGKILL: every record arrives exactly once."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import parse_qsl

import duckdb
import pytest
from anyio.from_thread import start_blocking_portal

from engine.fault_injection import VARIABLE
from tests.integration.scripted_http import Answer, Request, ScriptedServer
from tests.servers.postgres import Postgres

RECORDS = 1500
PATIENCE = 300
FAULTS = ("batch_read:4", "batch_written:3", "ledger_committing:1")

READ = {
    "duckdb": "source: duckdb, with: {path: in.duckdb, table: t, key: id, page_records: 50}",
    "postgres": "source: postgres, with: {connection: db, table: t, key: id, page_records: 50}",
    "sql": "source: sql, with: {connection: file, table: t, key: id, page_records: 50, split_rows: 400}",
    "http": "source: http, with: {connection: api, path: rows, key: id, paging: {type: offset, size: 50}}",
}
KEEP = {
    "duckdb": "sink: duckdb, with: {path: out.duckdb, table: t, records: 50}",
    "http": 'sink: http, with: {connection: api, method: PUT, path: "rows/{id}"}',
}
PIPELINE = """\
version: 1
connections:
  db: {url: "${DATABASE_URL:-postgresql://localhost/none}"}
  file: {driver: sqlite, url: in.sqlite}
  api: {url: "${API_URL}"}
pipelines:
  copy:
    nodes:
      read: {READ}
      keep: {KEEP}
"""


class Rows:
    """An API over `RECORDS` rows, which remembers what was put."""

    def __init__(self) -> None:
        self.put: dict[str, int] = {}
        self.keys: set[str] = set()

    def __call__(self, request: Request) -> Answer:
        if request.method == "PUT":
            self.put[request.path] = request.json["n"]
            self.keys.add(request.headers["idempotency-key"])
            return Answer(204, b"")
        query = dict(parse_qsl(request.query))
        first = int(query["offset"])
        stop = min(first + int(query["limit"]), RECORDS)
        return Answer.of([{"id": n, "n": n * 2} for n in range(first, stop)])


@pytest.fixture
def api() -> Iterator[tuple[str, Rows]]:
    rows = Rows()
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(rows).running()) as server:
            yield server.url, rows


def run(folder: Path, read: str, keep: str, fault: str, *arguments: str) -> int:
    text = PIPELINE.replace("READ", READ[read]).replace("KEEP", KEEP[keep])
    (folder / "pipelines.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "engine", "run", "--quiet", *arguments],
        cwd=folder,
        env={**os.environ, VARIABLE: fault},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("read", "keep"),
    [
        ("http", "duckdb"),
        pytest.param("duckdb", "http", marks=pytest.mark.series),
        pytest.param("duckdb", "duckdb", marks=pytest.mark.series),
        pytest.param("postgres", "duckdb", marks=pytest.mark.series),
        pytest.param("sql", "duckdb", marks=pytest.mark.series),
    ],
)
def test_killed_copies_are_complete_and_hold_each_record_once(
    read: str,
    keep: str,
    api: tuple[str, Rows],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, rows = api
    monkeypatch.setenv("API_URL", url)
    if read == "duckdb":
        with duckdb.connect(str(tmp_path / "in.duckdb")) as connection:
            rows_of = f"SELECT range AS id, range * 2 AS n FROM range({RECORDS})"
            connection.execute(f"CREATE TABLE t AS {rows_of}")
    if read == "sql":
        with closing(sqlite3.connect(tmp_path / "in.sqlite")) as file:
            file.execute("CREATE TABLE t (id integer, n integer)")
            file.executemany("INSERT INTO t VALUES (?, ?)", [(n, n * 2) for n in range(RECORDS)])
            file.commit()
    if read == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        server.start()
        server.sql("DROP TABLE IF EXISTS t, _odw_batches")
        server.sql(
            f"CREATE TABLE t AS SELECT n AS id, n * 2 AS n FROM generate_series(0, {RECORDS - 1}) AS n"
        )
        monkeypatch.setenv("DATABASE_URL", server.address())

    codes = [run(tmp_path, read, keep, FAULTS[0])]
    codes += [run(tmp_path, read, keep, fault, "--resume") for fault in FAULTS[1:]]
    assert codes == [-signal.SIGKILL] * 3
    assert run(tmp_path, read, keep, "", "--resume") == 0

    expected = {n: n * 2 for n in range(RECORDS)}
    if keep == "http":
        assert rows.put == {f"/rows/{n}": value for n, value in expected.items()}
        assert len(rows.keys) == RECORDS, "a repetition has the same idempotency key"
        return
    with duckdb.connect(str(tmp_path / "out.duckdb")) as connection:
        found = connection.execute("SELECT id, n FROM t").fetchall()
    assert sorted(found) == sorted(expected.items())
