"""`python -m engine dlq` against the real service: list, show, replay, and replay again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from engine.fault_injection import VARIABLE

PATIENCE = 300
UNMARK = r"file_name~^\[DLQ\]~"

LOADING = """\
version: 1
connections: {warehouse: {url: "${INGEST_URL:-sandbox}"}}
pipelines:
  blobs:
    params: {rows: 1000, fail_percentage: 0}
    nodes:
      make: {source: blob, with: {records: "${params.rows}"}}
      mark: {transform: simulate_failures, with: {percentage: "${params.fail_percentage}", field: file_name}}
      load: {sink: ingest, with: {model: BlobSource}}
    dead_letters: {forward: {sink: ingest, with: {model: UnstructuredDataSource}}}
"""

Verb = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def serving(state_dir: Path) -> Iterator[str]:
    """A `serve` started by hand; its URL."""
    command = [sys.executable, "-m", "engine", "serve", "--port", "0", "--state-dir", str(state_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            yield next(word for word in words if word.startswith("http://"))
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


@pytest.fixture
def verb(tmp_path: Path) -> Verb:
    """Runs a verb in a folder with the pipelines; keywords are environment variables."""
    (tmp_path / "pipelines.yaml").write_text(LOADING, encoding="utf-8")

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


def listed(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(url: str) -> list[dict[str, object]]:
    answer = httpx.get(f"{url}/consumption/getBlobs", params={"limit": "5000"})
    answer.raise_for_status()
    items: list[dict[str, object]] = answer.json()["items"]
    return items


@pytest.mark.series
def test_patched_replay_delivers_dead_records_exactly_once(tmp_path: Path, verb: Verb) -> None:
    with serving(tmp_path / "service") as url:
        ran = verb("run", "--param", "blobs.fail_percentage=20", INGEST_URL=url)
        assert ran.returncode == 0, ran.stderr
        assert len(rows(url)) == 800

        letters = listed(verb("dlq", "list", "--json", "--limit", "0", INGEST_URL=url))
        assert len(letters) == 200
        assert {letter["store"] for letter in letters} == {"engine+service"}
        assert all(str(letter["record"]["file_name"]).startswith("[DLQ]") for letter in letters)  # type: ignore[index]

        tried = verb("dlq", "replay", "--patch", UNMARK, "--dry-run", INGEST_URL=url)
        assert tried.returncode == 0
        assert "blobs: 200 dead letters → load, 200 changed by patches" in tried.stdout
        assert len(rows(url)) == 800

        replayed = verb("dlq", "replay", "--patch", UNMARK, INGEST_URL=url)
        assert replayed.returncode == 0, replayed.stderr
        assert len({row["id"] for row in rows(url)}) == len(rows(url)) == 1000

        again = verb("dlq", "replay", "--patch", UNMARK, INGEST_URL=url)
        assert again.returncode == 0
        assert "nothing to replay" in again.stderr
        assert len(rows(url)) == 1000
        assert listed(verb("dlq", "list", "--json", INGEST_URL=url)) == []
        done = listed(verb("dlq", "list", "--json", "--status", "replayed", "--limit", "0", INGEST_URL=url))
        assert len(done) == 200


@pytest.mark.series
def test_replay_without_a_patch_leaves_one_open_dead_letter_each(verb: Verb) -> None:
    assert verb("run", "--param", "blobs.rows=100", "--param", "blobs.fail_percentage=5").returncode == 0
    first = listed(verb("dlq", "list", "--json"))
    assert len(first) == 5
    replayed = verb("dlq", "replay", "--node", "load")
    assert replayed.returncode == 0, replayed.stderr
    second = listed(verb("dlq", "list", "--json"))
    assert {one["key"] for one in second} == {one["key"] for one in first}
    assert {one["engine"]["run_id"] for one in second}.isdisjoint(  # type: ignore[index]
        one["engine"]["run_id"]  # type: ignore[index]
        for one in first  # type: ignore[index]
    )


LINES = """\
version: 1
pipelines:
  lines:
    dead_letters: {max: 100%}
    nodes:
      read: {source: jsonl, with: {path: in.jsonl, mode: changed}}
      number: {map: {set: {number: "int(text)"}}}
      keep: {sink: jsonl, with: {path: out.jsonl}}
"""


def test_a_killed_replay_is_completed_by_the_next_one(tmp_path: Path, verb: Verb) -> None:
    (tmp_path / "pipelines.yaml").write_text(LINES, encoding="utf-8")
    (tmp_path / "in.jsonl").write_text('{"text":"x"}\n' * 600, encoding="utf-8")
    assert verb("run").returncode == 0
    replay = ("dlq", "replay", "--patch", "text=1")
    assert verb(*replay, **{VARIABLE: "batch_written:2"}).returncode == -signal.SIGKILL
    part = verb(*replay, "--limit", "1", "--dry-run")
    assert (part.returncode, part.stdout) == (1, "")
    assert "also has 599 others, and may have delivered some" in part.stderr
    with (tmp_path / "in.jsonl").open("a", encoding="utf-8") as lines:
        lines.write('{"text":"y"}\n')
    assert verb("run").returncode == 0  # its letter is younger than the killed replay
    done = verb(*replay)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.jsonl").read_text().splitlines() == ['{"text":"1","number":1}'] * 601
    assert "nothing to replay" in verb(*replay).stderr


def test_a_killed_replay_is_not_continued_with_another_record(tmp_path: Path, verb: Verb) -> None:
    (tmp_path / "pipelines.yaml").write_text(LINES.replace(", mode: changed", ""), encoding="utf-8")
    for text in ("x1", "x2"):  # the same line of a file that is rewritten
        (tmp_path / "in.jsonl").write_text(f'{{"text":"{text}"}}\n', encoding="utf-8")
        assert verb("run").returncode == 0
    first, second = (str(letter["id"]) for letter in listed(verb("dlq", "list", "--json")))
    replay = ("dlq", "replay", "--patch", "text~x~")
    assert verb(*replay, first, **{VARIABLE: "batch_written:1"}).returncode == -signal.SIGKILL
    assert verb(*replay, second).returncode == 0
    assert (tmp_path / "out.jsonl").read_text() == '{"text":"1","number":1}\n{"text":"2","number":2}\n'


@pytest.mark.slow
def test_one_letter_can_be_shown_and_replayed_by_its_id(verb: Verb) -> None:
    assert verb("run", "--param", "blobs.rows=100", "--param", "blobs.fail_percentage=3").returncode == 0
    letter = listed(verb("dlq", "list", "--json", "--limit", "1"))[0]
    shown = verb("dlq", "show", str(letter["id"]))
    assert shown.stdout.startswith(f"dead letter {letter['id']}  (engine+service, open)\n")
    for part in ("pipeline    blobs", "node        load (service)", f"key         {letter['key']}", '"[DLQ]'):
        assert part in shown.stdout
    assert verb("dlq", "replay", str(letter["id"]), "--patch", UNMARK).returncode == 0
    assert len(listed(verb("dlq", "list", "--json"))) == 2
    unknown = verb("dlq", "replay", "ffffffffff")
    assert unknown.returncode == 2
    assert "no dead letter 'ffffffffff'" in unknown.stderr
    assert verb("dlq", "replay", str(letter["id"])).returncode == 0


@pytest.mark.slow
def test_letters_that_only_the_service_has_are_posted_to_it_again(tmp_path: Path, verb: Verb) -> None:
    bad = {
        "id": "b1", "bucket_name": "b", "file_path": "/", "file_name": "[DLQ]x.txt", "file_size": 1,
        "permissions": ["READ"], "content_type": "text/plain", "ingested_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    assert verb("run", "--param", "blobs.rows=1").returncode == 0  # a state directory with a warehouse
    with serving(tmp_path / ".odw") as url:
        httpx.post(f"{url}/ingest/BlobSource", json=bad, headers={"X-ODW-Results": "per-record"})
        (letter,) = listed(verb("dlq", "list", "--json"))
        assert (letter["store"], letter["key"]) == ("service", "b1")
        unpatched = verb("dlq", "replay")
        assert unpatched.returncode == 0, unpatched.stderr
        assert "BlobSource: 0 rows written, 1 record dead again" in unpatched.stdout
        patched = verb("dlq", "replay", "--patch", UNMARK)
        assert "BlobSource: 1 row written, 0 records dead again" in patched.stdout
        assert [row["file_name"] for row in rows(url) if row["id"] == "b1"] == ["x.txt"]
        assert listed(verb("dlq", "list", "--json")) == []


@pytest.mark.series
def test_letters_of_a_removed_pipeline_stay_and_are_explained(tmp_path: Path, verb: Verb) -> None:
    assert verb("run", "--param", "blobs.rows=100", "--param", "blobs.fail_percentage=2").returncode == 0
    renamed = LOADING.replace("  blobs:\n", "  objects:\n")
    (tmp_path / "pipelines.yaml").write_text(renamed, encoding="utf-8")
    done = verb("dlq", "replay")
    assert done.returncode == 1
    assert (
        "2 dead letters of blobs/load not replayed: the file no longer has a pipeline `blobs`" in done.stderr
    )
    assert len(listed(verb("dlq", "list", "--json"))) == 2


@pytest.mark.slow
def test_missing_service_is_named_and_engine_letters_are_listed(verb: Verb) -> None:
    assert verb("run", "--param", "blobs.rows=100", "--param", "blobs.fail_percentage=1").returncode == 0
    done = verb("dlq", "list", "--json", INGEST_URL="http://127.0.0.1:9")
    assert len(listed(done)) == 1
    assert "cannot reach the ingest service at http://127.0.0.1:9" in done.stderr
