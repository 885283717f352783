"""The verb `eval`: records against what is true."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli.verbs import main

TRUTH: list[dict[str, object]] = [
    {"id": "1", "name": "Ann Lee", "age": 30, "city": None},
    {"id": "2", "name": "José", "age": 41, "city": "Oslo"},
    {"id": "3", "name": "Cy", "age": 5, "city": "Rome"},
]
FOUND: list[dict[str, object]] = [
    {"id": "1", "name": "ann  lee", "age": "30", "city": "Lima"},
    {"id": "2", "name": "José", "age": 14, "city": None},
    {"id": "9", "name": "Nobody"},
]


def lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def files(folder: Path) -> tuple[str, str]:
    return lines(folder / "out.jsonl", FOUND), lines(folder / "truth.jsonl", TRUTH)


def test_values_are_exact_normalised_wrong_missing_or_invented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *files(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = ("exact", "normalised", "wrong", "missing", "invented")
    assert {name: [one[kind] for kind in kinds] for name, one in found["fields"].items()} == {
        "name": [1, 1, 0, 0, 0],
        "age": [0, 1, 1, 0, 0],
        "city": [0, 0, 0, 1, 1],
    }
    assert (found["records"], found["lost"], found["unknown"]) == (2, ["3"], ["9"])


def test_a_table_names_documents_and_the_other_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, truth = files(tmp_path)
    assert main(["eval", truth, truth, "--against", out]) == 0
    said = capsys.readouterr().out
    assert "before" in said
    assert "100%" in said
    assert main(["eval", out, truth]) == 0
    assert "without a record: 3" in capsys.readouterr().out


@pytest.mark.parametrize(("share", "code"), [("0.3", 0), ("0.4", 1)])
def test_too_few_right_values_are_an_exit_code(tmp_path: Path, share: str, code: int) -> None:
    assert main(["eval", *files(tmp_path), "--min", share]) == code  # 3 of 9


def test_truth_by_path_fits_records_with_longer_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"memos/1.txt": {"name": "Ann"}, "memos/2.txt": "corrupt"}))
    out = lines(tmp_path / "out.jsonl", [{"path": "s3://bucket/memos/1.txt", "name": "Ann"}])
    assert main(["eval", out, str(truth), "--key", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"]["name"]["exact"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "out.jsonl:1: not JSON"), ('{"a": 1}\n{"a": 2}\n', "no record has a field `id`")],
)
def test_files_that_cannot_be_compared_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    _, truth = files(tmp_path)
    (tmp_path / "out.jsonl").write_text(content)
    assert main(["eval", str(tmp_path / "out.jsonl"), truth]) == 2
    assert message in capsys.readouterr().err
