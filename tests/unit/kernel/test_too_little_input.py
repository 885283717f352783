"""A run with too little input fails before its sinks replace existing data."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main

FILE = """\
version: 1
pipelines:
  copy:
    min_records: 2
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: SINK, with: {PARAMS, mode: replace}}
"""


@pytest.mark.parametrize(
    ("sink", "params", "found"), [("files", "path: out", "out/part-old.jsonl"), ("jsonl", "path: out", "out")]
)
def test_too_little_input_replaces_nothing(
    sink: str, params: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipelines.yaml").write_text(FILE.replace("SINK", sink).replace("PARAMS", params))
    Path("in.jsonl").write_text("")
    Path(found).parent.mkdir(exist_ok=True)
    Path(found).write_text('{"n": 1}\n')

    assert main(["run", "--quiet"]) != 0
    assert Path(found).read_text() == '{"n": 1}\n'
