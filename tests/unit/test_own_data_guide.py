"""The guide for one's own data, followed step by step."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

from engine.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def rows(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(
            "SELECT id, customer, amount, country, day FROM invoices ORDER BY id"
        ).fetchall()


def test_the_guide_for_own_data_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoices.jsonl").write_text(blocks("jsonl")[0])
    load, by_country = blocks("yaml")
    planned, summary, letters = blocks("text")

    (tmp_path / "pipelines.yaml").write_text(load)
    assert main(["plan"]) == 0
    assert capsys.readouterr().out == planned

    for _ in range(2):
        assert main(["run"]) == 0
    shown = capsys.readouterr().out
    assert re.sub(r"\s+", " ", summary.splitlines()[1]) in re.sub(r"\s+", " ", shown)
    assert rows(tmp_path / "invoices.duckdb") == [
        ("A-1", "Alice GmbH", 1234.5, "DE", "2026-02-03"),
        ("A-2", "Bob SARL", 99.0, "FR", "2026-02-04"),
    ]

    assert main(["dlq", "list"]) == 0
    assert letters.splitlines()[1].split("…")[1].strip() in capsys.readouterr().out

    (tmp_path / "pipelines.yaml").write_text(by_country)
    assert main(["run", "--quiet"]) == 0
    written = {path.parent.name: path.suffix for path in (tmp_path / "out").rglob("part-*")}
    assert written == {"domestic": ".parquet", "others": ".csv"}
