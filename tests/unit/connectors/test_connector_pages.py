"""The examples in the pages about connectors are complete files that validate and run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from engine.cli import main

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("clickhouse", "duckdb", "generate", "http", "postgres")


def examples(page: str) -> list[str]:
    text = (DOCS / f"connectors-{page}.md").read_text("utf-8")
    return re.findall(r"^```yaml\n(version: 1\n.*?)^```", text, re.M | re.S)


EXAMPLES = [
    pytest.param(text, id=f"{page}-{number}") for page in PAGES for number, text in enumerate(examples(page))
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_of_a_page_is_valid(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(text)

    assert main(["validate"]) == 0


@pytest.mark.slow
def test_the_example_of_generate_makes_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(examples("generate")[0])

    assert main(["run", "--quiet"]) == 0
    lines = (tmp_path / "customers.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 1000
    assert (first["id"], first["email"]) == ("c-000000", "c-000000@example.com")


@pytest.mark.slow
def test_the_example_of_stdin_reads_what_is_piped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(examples("generate")[1])
    (tmp_path / "piped").write_text('{"id": 1}\nnot json\n\n{"id": 2}\n')
    with (tmp_path / "piped").open() as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        assert main(["run", "--quiet"]) == 0
    assert (tmp_path / "kept.jsonl").read_text() == '{"id":1}\n{"id":2}\n'


@pytest.mark.slow
def test_the_examples_of_duckdb_load_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load, read = examples("duckdb")
    lines = [{"id": number, "amount": number / 2, "country": "DE"} for number in range(20)]
    (tmp_path / "invoices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for text in (load, load, read):
        (tmp_path / "pipelines.yaml").write_text(text)
        assert main(["run", "--quiet", "--verify"]) == 0
    copied = [json.loads(line) for line in (tmp_path / "large.jsonl").read_text().splitlines()]
    assert copied == lines[11:]
