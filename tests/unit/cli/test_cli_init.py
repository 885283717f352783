"""`init`: templates run unchanged."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

from engine.cli import main
from engine.cli.scaffold import TEMPLATES

QUIET = ("--log-format", "none", "--progress", "none")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_valid(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", template, "new"]) == 0
    monkeypatch.chdir("new")

    assert main(["validate"]) == 0
    assert not re.search("@[A-Z]+@", Path("pipelines.yaml").read_text())
    assert ".odw/" in Path(".gitignore").read_text()


@pytest.mark.slow
def test_template_of_files_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "files", "orders"]) == 0
    monkeypatch.chdir("orders")

    assert main(["test"]) == 0
    assert main(["run", *QUIET]) == 0
    with duckdb.connect("orders.duckdb") as rows:
        assert rows.execute("SELECT count(*), sum(amount) FROM orders").fetchone() == (5, 194.65)


@pytest.mark.slow
def test_template_with_a_model_runs_dry_on_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "s3-to-llm"]) == 0

    assert main(["run", "--limit", "2", "--dry-run", *QUIET]) == 0


def test_the_cases_of_a_template_with_connections_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["init", "http-to-postgres", "issues"]) == 0
    monkeypatch.chdir("issues")

    assert main(["test"]) == 0


def test_init_says_what_to_do_next(capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", "files", "orders"])

    said = capsys.readouterr().out
    assert "created orders/pipelines.yaml" in said
    assert "  cd orders\n" in said


def test_init_overwrites_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text("mine")

    assert main(["init", "files"]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["pipelines.yaml"]
    assert Path("pipelines.yaml").read_text() == "mine"


def test_init_alone_lists_the_templates(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in TEMPLATES)


def test_misspelt_template_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "flies"]) == 2
    assert "did you mean `files`?" in capsys.readouterr().err
