"""`init` writes the main job, and overwrites nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main

ROOT = Path(__file__).parents[3]


def test_the_main_job_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["init"]) == 0
    assert (tmp_path / "pipelines.yaml").read_bytes() == (ROOT / "pipelines.yaml").read_bytes()
    assert capsys.readouterr().out.endswith(" run\n")
    assert main(["init", "other.yaml"]) == 0
    assert capsys.readouterr().out.endswith(" run other.yaml\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [("here.yaml", "here.yaml exists already"), ("no/such.yaml", "no/such.yaml cannot be written: No such")],
)
def test_a_file_that_cannot_be_new_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.yaml").write_text("mine")

    assert main(["init", name]) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "here.yaml").read_text() == "mine"
