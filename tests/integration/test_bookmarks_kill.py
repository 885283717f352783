"""Processes killed while bookmarks are set: these never get ahead of the delivery."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.cli.exit_codes import ExitCode
from engine.fault_injection import VARIABLE
from engine.state import BookmarkFilter, BookmarkRecord, RunRecord, open_store
from tests.integration.test_s3 import BUCKET, put
from tests.integration.test_s3 import s3 as s3
from tests.integration.test_s3 import server as server
from tests.series import few

PATIENCE = 300
KILLED = -signal.SIGKILL
LINES = 3000

GROWING = """\
version: 1
pipelines:
  grow:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl, mode: changed, page_records: 10}}
      keep: {sink: jsonl, with: {path: out.jsonl}}
"""

OBJECTS = f"""\
version: 1
connections: {{lake: {{endpoint: "${{ENDPOINT}}", access_key: key, secret_key: secret}}}}
pipelines:
  lake:
    nodes:
      read: {{source: s3, with: {{connection: lake, pattern: "s3://{BUCKET}/**", mode: changed}}}}
      keep: {{sink: jsonl, with: {{path: out.jsonl}}}}
"""

ONCE = """\
version: 1
pipelines:
  once:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl, page_records: 10}}
      first: {deduplicate: {key: n % 1000, within: all_runs}}
      keep: {sink: jsonl, with: {path: out.jsonl}}
"""


class Folder:
    """The working directory of the command, with its files."""

    def __init__(self, path: Path, file: str, **environment: str) -> None:
        self.path = path
        self.environment = {**os.environ, **environment}
        (path / "pipelines.yaml").write_text(file, encoding="utf-8")

    def run(self, *arguments: str, at: str = "") -> int:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "run", "--quiet", *arguments],
            cwd=self.path,
            env=self.environment | {VARIABLE: at},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode

    def output(self) -> list[Any]:
        """The records that have arrived since the last look."""
        out = self.path / "out.jsonl"
        if not out.exists():  # killed before anything was written
            return []
        records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        out.unlink()
        return records

    async def state(self) -> tuple[list[BookmarkRecord], list[tuple[RunRecord, int]]]:
        """The bookmarks, and the runs with how many records the ledger says were read."""
        async with open_store(self.path / ".odw", create=False) as store:
            runs = [(run, (await store.tally(run.run_id)).read) for run in await store.list_runs()]
            return await store.list_bookmarks(BookmarkFilter()), runs


@pytest.mark.parametrize(
    "point",
    few(
        [
            "batch_written:7",
            "batch_written:250",
            "ledger_committing:1",
            "ledger_committed:1",
            "batch_read:40:TERM,books_closed:1",  # killed at the end of a drain
        ],
        2,
    ),
)
async def test_new_run_reads_only_the_undelivered_part_of_a_file(tmp_path: Path, point: str) -> None:
    folder = Folder(tmp_path, GROWING)
    with (tmp_path / "in.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"n":{number}}}\n' for number in range(LINES))
    assert folder.run(at=point) == KILLED
    first = [record["n"] for record in folder.output()]
    bookmarks, [(killed, committed)] = await folder.state()
    remembered = bookmarks[0].value["line"] if bookmarks else 0
    assert remembered == committed <= len(first)

    assert folder.run() == ExitCode.COMPLETED
    assert [record["n"] for record in folder.output()] == list(range(remembered, LINES))
    assert folder.run("--resume", killed.run_id) == ExitCode.COMPLETED
    assert [record["n"] for record in folder.output()] == list(range(remembered, LINES))
    assert folder.run() == ExitCode.COMPLETED
    assert folder.output() == []


@pytest.mark.series
@pytest.mark.parametrize("point", few(["batch_written:2", "ledger_committed:1"], 1))
async def test_of_objects_a_new_run_reads_those_the_ledger_does_not_have(
    tmp_path: Path, server: str, s3: Any, point: str
) -> None:
    put(s3, {f"{number:03d}.txt": b"1" for number in range(100)})
    every = [f"s3://{BUCKET}/{number:03d}.txt" for number in range(100)]
    folder = Folder(tmp_path, OBJECTS, ENDPOINT=server)
    assert folder.run(at=point) == KILLED
    first = [record["file_path"] for record in folder.output()]
    bookmarks, [(_, committed)] = await folder.state()
    remembered = {f"s3://{BUCKET}/{one.key}" for one in bookmarks}
    assert len(remembered) == committed
    assert remembered <= set(first)

    assert folder.run() == ExitCode.COMPLETED
    second = [record["file_path"] for record in folder.output()]
    assert sorted(second) == [path for path in every if path not in remembered]
    assert folder.run() == ExitCode.COMPLETED
    assert folder.output() == []


@pytest.mark.series
@pytest.mark.parametrize("point", ["batch_written:7", "ledger_committing:1", "ledger_committed:1"])
async def test_duplicates_are_those_of_what_the_ledger_has(tmp_path: Path, point: str) -> None:
    folder = Folder(tmp_path, ONCE)
    with (tmp_path / "in.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f'{{"n":{number}}}\n' for number in range(LINES))
    assert folder.run(at=point) == KILLED
    first = [record["n"] for record in folder.output()]
    bookmarks, [(killed, committed)] = await folder.state()
    assert len(bookmarks) == min(committed, 1000) <= len(first)

    assert folder.run() == ExitCode.COMPLETED
    assert [record["n"] for record in folder.output()] == list(range(len(bookmarks), 1000))
    assert folder.run("--resume", killed.run_id) == ExitCode.COMPLETED
    assert folder.output() == []
    assert folder.run() == ExitCode.COMPLETED
    assert folder.output() == []
