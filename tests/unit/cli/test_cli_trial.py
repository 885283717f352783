"""`run --limit`, `--sample`, `--dry-run` and `--json` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import main

FILE = """\
version: 1
connections: {model: {base_url: "http://127.0.0.1:9", api_key: none, model: m}}
pipelines:
  copy:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: jsonl, with: {path: out.jsonl}}
  paid:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      extract: {transform: llm_extract, with: {connection: model, schema: Medical}}
      write: {sink: jsonl, with: {path: paid.jsonl}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipelines.yaml").write_text(FILE)
    Path("in.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(20)))


def run(*arguments: str, only: str = "copy") -> int:
    return main(["run", "--only", only, "--log-format", "none", "--progress", "none", *arguments])


@pytest.mark.slow
def test_run_with_limit_delivers_so_many_and_reports_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--limit", "3") == 0

    assert Path("out.jsonl").read_text().count("\n") == 3
    assert "copy: `read` stopped after 3 records (--limit)" in capsys.readouterr().out


def test_dry_run_shows_records_and_writes_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run", "--show", "2") == 0

    printed = capsys.readouterr()
    assert '# copy.write\n{"n": 0}\n{"n": 1}\n' in printed.out
    assert "`write` (jsonl) would have been given 20 records" in printed.err
    assert sorted(path.name for path in Path().iterdir()) == ["in.jsonl", "pipelines.yaml"]


@pytest.mark.slow
def test_a_report_stays_where_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "wanderer").mkdir()
    (tmp_path / "odw_wandering.py").write_text(
        "import os\nimport engine\n\n@engine.transform\ndef go(record):\n"
        f"    os.chdir({str(tmp_path / 'wanderer')!r})\n    return record\n"
    )
    Path("pipelines.yaml").write_text(
        FILE.replace("      write:", "      go: {transform: odw_wandering:go}\n      write:", 1)
    )

    assert run("--report", "report.json") == 0
    assert (tmp_path / "report.json").exists()


@pytest.mark.slow
def test_json_prints_the_report_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--sample", "5") == 0

    report = json.loads(capsys.readouterr().out)["pipelines"]["copy"]
    assert report["tally"]["written"] == 5
    assert report["nodes"]["read"]["numbers"] == {"sampled": 5, "sampled_splits": 1}


def test_dry_run_does_not_pay_unless_told_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry-run", only="paid") == 2

    assert "paid.extract would pay for answers: add --yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "--limit", "1"], "--resume"),
        (["--show", "1"], "add --dry-run"),
        (["--limit", "0"], "--limit"),
        (["--dry-run", "--verify"], "--verify"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2

    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--limit", "--sample"])
def test_a_part_does_not_replace_all_that_is_there(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text(FILE.replace("path: out.jsonl", "path: out.jsonl, mode: replace"))
    Path("out.jsonl").write_text('{"n": "all"}\n')

    assert run(option, "3") == 2
    assert f"{option} reads a part, and copy.write would replace all" in capsys.readouterr().err
    assert run(option, "3", "--dry-run") == 0
    assert Path("out.jsonl").read_text() == '{"n": "all"}\n'
    assert run(option, "3", "--set", "pipelines.copy.nodes.write.with.mode=append") == 0
    assert Path("out.jsonl").read_text().count("\n") == 4


MODELS = """\
version: 1
connections: {warehouse: {url: "http://127.0.0.1:9"}}
warehouse: {models: {Reading: {fields: {id: str, celsius: float}}}}
pipelines:
  copy:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      load: {sink: ingest, with: {connection: warehouse, model: reading}}
    dead_letters: {max: 100}
"""


@pytest.mark.slow
def test_dry_run_counts_refused_records_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text(MODELS)
    rows = [{"id": "a", "celsius": 1}, {"id": "b", "celsius": "warm"}, {"celsius": 2}, {"id": 3}, {"x": 1}]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 2))

    assert run("--dry-run", "--show", "3") == 0

    printed = capsys.readouterr()
    assert "`load` (ingest) would have been given 2 records" in printed.err
    assert "2 died at `load`: ValidationError: Input should be a valid number" in printed.err
    assert "2 died at `load`: ValidationError: Missing fields: id (first:" in printed.err
    assert "2 died at `load`: ValidationError: Missing fields: id, celsius" in printed.err
    assert printed.out.count('{"id": "a", "celsius": 1}') == 2
    assert "warm" not in printed.err + printed.out
