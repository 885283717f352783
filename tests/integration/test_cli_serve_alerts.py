"""The metrics of the sample alert rules are served, and change when a run fails."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

RULES = Path(__file__).parents[2] / "samples" / "alerts.yaml"
FILE = """\
version: 1
pipelines:
  p:
    min_records: 5
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: jsonl, with: {path: out.jsonl}}
"""


@pytest.mark.slow
def test_a_failed_run_moves_what_the_alert_watches(tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text(FILE)
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n')
    command = [sys.executable, "-m", "engine", "serve", "pipelines.yaml", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip(";,")
        assert 'odw_runs_ended_total{pipeline="p",status="failed"} 0' in httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/consumption/extract-p", timeout=300).json()["success"]
        line = process.stdout.readline()
        text = httpx.get(f"{url}/metrics").text
        process.terminate()
    assert line.startswith("p failed")
    assert 'odw_runs_ended_total{pipeline="p",status="failed"} 1' in text
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    named = {name for rule in rules for name in re.findall(r"odw_[a-z_]+", rule["expr"])}
    assert named <= set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
