"""A delivery closes the dead letter of its record, and a replay never undoes a delivery."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.series import few

PIPELINES = """\
version: 1
connections: {warehouse: {url: URL}}
pipelines:
  logs:
    nodes:
      read: {source: jsonl, with: {path: logs.jsonl, key: id}}
      load: {sink: ingest, with: {model: LogSource, validation: always}}
    dead_letters: {max: 100}
"""

Line = dict[str, Any]


@contextmanager
def serving(state_dir: Path) -> Iterator[str]:
    """Start `serve`; yield its URL."""
    command = [sys.executable, "-m", "engine", "serve", "--port", "0", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        words = process.stdout.readline().replace(";", " ").split()
        try:
            yield next(word for word in words if word.startswith("http://"))
        finally:
            process.terminate()


def line(identifier: str, message: str, level: str = "INFO") -> Line:
    return {"id": identifier, "timestamp": "2026-01-01T00:00:00Z", "level": level, "message": message}


class Bench:
    """A folder with a pipeline, and a service."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "pipelines.yaml").write_text(PIPELINES.replace("URL", url), encoding="utf-8")

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine", *arguments]
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )

    def load(self, *lines: Line) -> None:
        (self.folder / "logs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        done = self.verb("run")
        assert done.returncode == 0, done.stderr

    def letters(self, status: str = "open", store: str = "all") -> list[dict[str, Any]]:
        done = self.verb("dlq", "list", "--json", "--status", status, "--store", store)
        assert done.returncode == 0, done.stderr
        return [json.loads(text) for text in done.stdout.splitlines()]

    def stored(self) -> dict[str, str]:
        items = httpx.get(f"{self.url}/consumption/getLogs").json()["items"]
        return {item["id"]: item["message"] for item in items}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with serving(tmp_path / "service") as url:
        yield Bench(tmp_path, url)


@pytest.mark.slow
@pytest.mark.parametrize("validation", few(["always", "never"], 1))
def test_a_delivery_closes_the_letter_of_its_record(bench: Bench, validation: str) -> None:
    file = bench.folder / "pipelines.yaml"
    file.write_text(file.read_text().replace("always", validation))
    bench.load(line("1", "a"), line("2", "old", "NO-SUCH"), line("3", "c", "NO-SUCH"))
    assert [one["key"] for one in bench.letters()] == ["2", "3"]
    bench.load(line("1", "a"), line("2", "new"))
    assert [one["key"] for one in bench.letters()] == ["3"]
    assert [one["key"] for one in bench.letters("recovered")] == ["2"]

    refused = bench.verb("dlq", "replay", "2", "--patch", "level=INFO")
    assert refused.returncode == 0
    assert "the record was delivered since" in refused.stderr
    assert bench.stored()["2"] == "new"
    forced = bench.verb("dlq", "replay", "2", "--patch", "level=INFO", "--force")
    assert forced.returncode == 0, forced.stderr
    assert bench.stored()["2"] == "old"


@pytest.mark.series
def test_a_delivery_by_somebody_else_closes_the_letter(bench: Bench) -> None:
    file = bench.folder / "pipelines.yaml"
    file.write_text(file.read_text().replace("always", "never"))
    bench.load(line("1", "a", "NO-SUCH"))
    assert [one["store"] for one in bench.letters()] == ["engine+service"]
    httpx.post(f"{bench.url}/ingest/LogSource", json=[line("1", "b")])
    assert bench.letters() == []
    assert [one["key"] for one in bench.letters("recovered")] == ["1"]


@pytest.mark.slow
def test_discarded_letters_keep_their_reason(bench: Bench) -> None:
    bench.load(line("1", "a", "NO-SUCH"), line("2", "b", "NO-SUCH"))
    assert bench.verb("dlq", "discard", "--reason", "x").returncode == 2
    assert bench.verb("dlq", "discard", "1", "--reason", " ").returncode == 2
    done = bench.verb("dlq", "discard", "1", "--reason", "a test of the scanner")
    assert (done.returncode, done.stdout) == (0, "1 dead letter discarded\n")
    assert [one["key"] for one in bench.letters()] == ["2"]
    assert "a test of the scanner" in bench.verb("dlq", "show", "1").stdout
    assert bench.verb("dlq", "replay").returncode == 0  # of what is left, which dies again
    assert [one["key"] for one in bench.letters("discarded")] == ["1"]


@pytest.mark.series
def test_letters_of_the_service_alone_are_discarded_there(bench: Bench) -> None:
    bench.load(line("0", "a"))
    httpx.post(f"{bench.url}/ingest/LogSource", json=[line("1", "a", "NO-SUCH")])
    (letter,) = bench.letters(store="service")
    assert bench.verb("dlq", "discard", letter["id"], "--reason", "not ours").returncode == 0
    assert bench.letters() == []
    (kept,) = httpx.get(f"{bench.url}/dead-letters", params={"status": "discarded"}).json()["items"]
    assert (kept["record_id"], kept["reason"]) == ("1", "not ours")
