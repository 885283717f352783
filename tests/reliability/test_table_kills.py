"""Tables of DuckDB, PostgreSQL and ClickHouse under SIGKILL: no row lost or duplicated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest

from engine.fault_injection import VARIABLE
from tests.servers import clickhouse, postgres
from tests.servers.clickhouse import ClickHouse
from tests.servers.postgres import DURABLE, Postgres

RECORDS = 3000
BROKEN = 7  # every so many records have a text for a number, and die
PATIENCE = 300
PLACES = ("rows_committing", "rows_committed", "batch_written", "ledger_committing", "ledger_committed")

PIPELINE = """\
version: 1
connections:
  db: {url: "${DATABASE_URL:-postgresql://localhost/none}"PASSWORD}
pipelines:
  load:
    dead_letters: {max: 100%}
    nodes:
      read: {source: jsonl, with: {path: in.jsonl, key: id, page_records: PAGE}}
      keep: {sink: KIND, with: {TARGET, table: t, mode: MODE, KEY records: PAGE, columns: {n: bigint}}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres.running(DURABLE, kept=True) as started:
        yield started


class Lab:
    """A folder in which the pipeline is run, killed and resumed."""

    def __init__(self, folder: Path, kind: str, mode: str, address: str) -> None:
        self.folder = folder
        self.kind, self.mode = kind, mode
        self.environment = {**os.environ, "DATABASE_URL": address, "ODW_LOG": "off"}
        lines = [
            f'{{"id":"r{n}","n":{n if n % BROKEN else chr(34) + "x" + chr(34)}}}\n' for n in range(RECORDS)
        ]
        (folder / "in.jsonl").write_text("".join(lines))

    def run(self, page: int, fault: str, *arguments: str) -> int:
        """Run it in batches of this size, to be killed at this place."""
        target = "path: w.duckdb" if self.kind == "duckdb" else "connection: db"
        key = "key: id," if self.mode == "merge" else ""
        text = PIPELINE.replace("PAGE", str(page)).replace("KIND", self.kind).replace("TARGET", target)
        password = f", password: {clickhouse.PASSWORD}" if self.kind == "clickhouse" else ""
        text = text.replace("MODE", self.mode).replace("KEY", key).replace("PASSWORD", password)
        (self.folder / "pipelines.yaml").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "engine", "run", "--quiet", *arguments],
            cwd=self.folder,
            env=self.environment | {VARIABLE: fault},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode


def table(lab: Lab, server: Postgres | ClickHouse | None) -> list[tuple[Any, ...]]:
    query = "SELECT id, n FROM t"
    if isinstance(server, ClickHouse):
        return server.sql(f"{query} FINAL" if lab.mode == "merge" else query)
    if server is not None:
        return server.sql(query)
    with duckdb.connect(str(lab.folder / "w.duckdb")) as connection:
        return connection.execute(query).fetchall()


def killed_and_resumed(lab: Lab, faults: list[str], server: Postgres | ClickHouse | None) -> None:
    codes = [lab.run(100, faults[0])]
    for attempt, fault in enumerate(faults[1:]):
        # other batches than before: the same ones could be told by their bytes
        codes.append(lab.run((70, 130)[attempt % 2], fault, "--resume"))
    assert codes == [-signal.SIGKILL] * len(faults), "every place was come by"
    assert lab.run(90, "", "--resume", "--verify") == 0
    rows = table(lab, server)
    expected = {f"r{n}": n for n in range(RECORDS) if n % BROKEN}
    assert [key for key, count in Counter(key for key, _ in rows).items() if count > 1] == []
    assert dict(rows) == expected


SERIES = pytest.mark.series
FIRST = ["rows_committed:3", "rows_committing:2", "batch_written:4", "ledger_committing:1"]


@pytest.mark.parametrize(
    ("mode", "seed"),
    [
        pytest.param("append", 0),
        *(
            pytest.param(mode, seed, marks=SERIES)
            for mode in ("append", "merge", "replace")
            for seed in (1, 2)
        ),
    ],
)
@pytest.mark.parametrize("kind", ["duckdb", "postgres", pytest.param("clickhouse", marks=SERIES)])
def test_killed_sinks_lose_and_double_nothing(
    kind: str, mode: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server, address = None, ""
    if kind == "postgres":
        server = request.getfixturevalue("server")
        address = server.address()
        server.sql("DROP TABLE IF EXISTS t, _odw_batches")
    elif kind == "clickhouse":
        server = request.getfixturevalue("clickhouse")
        server.start()
        address = server.url
        for name in ("t", "_odw_batches"):
            server.sql(f"DROP TABLE IF EXISTS default.{name} SYNC")
    lab = Lab(tmp_path, kind, mode, address)
    draw = Random(seed)
    # the ledger is committed by time: how often, depends on the machine
    counts = {place: 1 if place.startswith("ledger") else draw.randint(1, 5) for place in PLACES}
    faults = [f"{place}:{counts[place]}" for place in draw.sample(PLACES, 4)] if seed else FIRST

    killed_and_resumed(lab, faults, server)
