"""A model declared in the file: loaded by a run, read back, and changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

FILE = """\
version: 1
connections: {warehouse: {url: sandbox}}
warehouse:
  models:
    Reading: {fields: {id: str, celsius: float, PLACE}}
pipelines:
  readings:
    nodes:
      read: {source: jsonl, with: {path: readings.jsonl, key: id}}
      load: {sink: ingest, with: {connection: warehouse, model: Reading, confirm: visible}}
    dead_letters: {max: 100}
"""


def run(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "engine", "run"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_declared_model_is_loaded_read_and_extended(tmp_path: Path) -> None:
    file, lines = tmp_path / "pipelines.yaml", tmp_path / "readings.jsonl"
    file.write_text(FILE.replace(", PLACE", ""))
    lines.write_text('{"id": "a", "celsius": 1}\n{"id": "b", "celsius": "warm"}\n')
    run(tmp_path)
    file.write_text(FILE.replace("PLACE", "place: str?"))
    lines.write_text(json.dumps({"id": "c", "celsius": 2.5, "place": "hall"}) + "\n")
    run(tmp_path)
    command = [sys.executable, "-m", "engine", "serve", "pipelines.yaml", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip(";,")
        items = httpx.get(f"{url}/consumption/getReading?order=id").json()["items"]
        started = httpx.get(f"{url}/consumption/extract-readings", timeout=300)
        process.terminate()
    assert items == [
        {"id": "a", "celsius": 1.0, "place": None},
        {"id": "c", "celsius": 2.5, "place": "hall"},
    ]
    assert started.json()["success"]
