"""Two real processes and one run: the second is refused while the first lives, and takes over afterwards."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from engine.cli.exit_codes import ExitCode

PATIENCE = 300

ROWS = 30_000

FILE = """\
version: 1
pipelines:
  long:
    nodes:
      make: {source: logs, with: {records: 30000, seed: 7}}
      keep: {sink: jsonl, with: {path: out.fifo}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pipelines.yaml").write_text(FILE, encoding="utf-8")
    os.mkfifo(tmp_path / "out.fifo")
    return tmp_path


@pytest.fixture
def first(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that lasts until the test reads all of its output."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "run", "--quiet"], cwd=folder, stderr=subprocess.DEVNULL
    )
    with process:
        yield process
        process.kill()


@pytest.fixture
def output(folder: Path, first: subprocess.Popen[bytes]) -> Iterator[IO[bytes]]:
    with (folder / "out.fifo").open("rb") as pipe:
        yield pipe


def engine(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_live_run_is_refused_and_a_killed_one_taken_over(
    folder: Path, first: subprocess.Popen[bytes], output: IO[bytes]
) -> None:
    assert output.readline()
    listed = engine(folder, "runs", "list")
    assert listed.returncode == ExitCode.COMPLETED, listed.stderr
    (found,) = re.findall(r"^(long-\S+) .* running ", listed.stdout, re.MULTILINE)

    for arguments in (["run", "--resume", found], ["run", "--resume"]):
        refused = engine(folder, *arguments)
        assert refused.returncode == ExitCode.ENVIRONMENT
        assert re.search(
            rf"process \S+:{first.pid}:\w+ is working on run '{found}' \(lease until", refused.stderr
        )
        assert refused.stdout == ""
    refused = engine(folder, "runs", "forget", found, "--yes")
    assert refused.returncode == ExitCode.ENVIRONMENT
    assert f":{first.pid}:" in refused.stderr

    first.kill()
    first.wait(PATIENCE)
    (folder / "out.fifo").unlink()
    assert " killed " in engine(folder, "runs", "list").stdout
    second = engine(folder, "run", "--resume", found)
    assert second.returncode == ExitCode.COMPLETED, second.stderr
    assert re.search(
        rf"^{found} .* completed +2 +{ROWS:,} ", engine(folder, "runs", "list").stdout, re.MULTILINE
    )


def expire(folder: Path, year: int) -> None:
    """Let all leases last until this year."""
    state = folder / ".odw" / "state.sqlite3"
    with closing(sqlite3.connect(state)) as connection, connection:
        connection.execute(f"UPDATE leases SET expires_at = '{year}-01-01T00:00:00.000Z'")


@pytest.mark.slow
def test_a_suspended_process_that_wakes_up_late_changes_nothing(
    folder: Path, first: subprocess.Popen[bytes], output: IO[bytes]
) -> None:
    assert output.readline()
    first.send_signal(signal.SIGSTOP)
    expire(folder, 2100)  # which it can no longer renew, however long the next commands take
    (run_id,) = re.findall(r"^(long-\S+) ", engine(folder, "runs", "list").stdout, re.MULTILINE)
    refused = engine(folder, "run", "--resume", run_id)
    assert refused.returncode == ExitCode.ENVIRONMENT  # it may wake up any moment

    expire(folder, 2020)
    (folder / "out.fifo").unlink()
    second = engine(folder, "run", "--resume", run_id)
    assert second.returncode == ExitCode.COMPLETED, second.stderr
    done = engine(folder, "runs", "show", run_id).stdout

    first.send_signal(signal.SIGCONT)
    assert output.read()  # whatever it still writes goes to the pipe of the first
    assert first.wait(PATIENCE) == ExitCode.ENVIRONMENT
    assert engine(folder, "runs", "show", run_id).stdout == done
