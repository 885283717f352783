"""The verbs with their state in PostgreSQL: they share it, and no password is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.cli.exit_codes import ExitCode
from tests.servers.postgres import PASSWORD, PASSWORD_IN_ADDRESS, Postgres

PATIENCE = 300

FILE = """\
version: 1
connections: {warehouse: {url: "${INGEST_URL:-sandbox}"}}
pipelines:
  lines:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl, mode: changed}}
      load: {sink: ingest, with: {connection: warehouse, model: BlobSource}}
"""

GOOD = {"id": "a", "bucket_name": "b", "file_name": "f", "file_path": "/p", "file_size": 1,
        "permissions": ["READ"], "content_type": "text/plain",
        "ingested_at": "2026-11-23T08:00:00Z"}  # fmt: skip

Verb = Callable[..., str]


@pytest.fixture
def verb(tmp_path: Path, postgres: Postgres) -> Iterator[Verb]:
    """Run a verb in a folder with a pipeline and return its output, which never contains a password."""
    postgres.drop()
    (tmp_path / "pipelines.yaml").write_text(FILE, encoding="utf-8")
    rows = [GOOD, {**GOOD, "id": "b", "file_size": "large"}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def run(*arguments: str, code: int = ExitCode.COMPLETED, state: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            cwd=tmp_path,
            env={**os.environ, "ODW_STATE": state or postgres.address()},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert PASSWORD not in said
        assert PASSWORD_IN_ADDRESS not in said
        return said

    yield run
    postgres.drop()


@pytest.mark.slow
def test_verbs_share_the_state_of_a_database(verb: Verb, tmp_path: Path, postgres: Postgres) -> None:
    place = f"postgresql://odw@127.0.0.1:{postgres.port}/odw"
    assert f"no state in {place.replace('odw@', '***@')}" in verb("runs", "list", code=ExitCode.ENVIRONMENT)

    address = postgres.address()
    first = verb("run", "--report", "report.json", "--state", address)
    assert f"--state 'postgresql://odw:***@127.0.0.1:{postgres.port}/odw'" in first
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["state"] == place
    assert PASSWORD_IN_ADDRESS not in json.dumps(report)
    run_id = report["pipelines"]["lines"]["run_id"]

    (listed,) = verb("runs", "list", "--json").splitlines()
    assert (json.loads(listed)["run_id"], json.loads(listed)["tally"]["dead"]) == (run_id, 1)
    assert run_id in verb("runs", "show", run_id)
    assert "file_size" in verb("dlq", "list", "--store", "engine")
    assert '"pipeline": "lines"' in verb("bookmarks", "list", "--json")
    assert "nothing to resume" in verb("run", "--resume")
    verb("dlq", "replay", "--patch", "file_size=7")
    assert "no open dead letters" in verb("dlq", "list", "--store", "engine")
    assert "0 USD" not in verb("journal", "list")
    verb("bookmarks", "reset", "lines")
    verb("runs", "prune", "--older-than", "0s")
    assert "no runs" in verb("runs", "list")

    assert not (tmp_path / ".odw" / "state.sqlite3").exists()
    assert (tmp_path / ".odw" / "warehouse").stat().st_mode & 0o777 == 0o700


@pytest.mark.series
def test_a_run_that_was_killed_resumes_from_the_database(
    verb: Verb, tmp_path: Path, postgres: Postgres
) -> None:
    environment = {**os.environ, "ODW_STATE": postgres.address(), "ODW_FAULT_POINT": "ledger_committed:1"}
    killed = subprocess.run(
        [sys.executable, "-m", "engine", "run", "--quiet"], cwd=tmp_path, env=environment, timeout=PATIENCE,
        capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -9
    assert "killed" in verb("runs", "list")
    assert "resuming run" in verb("run", "--resume")
    assert json.loads(verb("runs", "list", "--json"))["tally"]["written"] == 1


def test_unreachable_database_is_named_and_nothing_runs(verb: Verb, tmp_path: Path) -> None:
    said = verb(
        "run", state=f"postgresql://odw:{PASSWORD_IN_ADDRESS}@127.0.0.1:9/odw", code=ExitCode.ENVIRONMENT
    )
    assert "cannot reach postgresql://***@127.0.0.1:9/odw: " in said
    assert not (tmp_path / ".odw").exists()
