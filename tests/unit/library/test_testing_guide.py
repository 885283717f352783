"""docs/testing.md: its case passes, its Python runs, and its table has every key."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import anyio
import pytest

from engine.testing.cases.model import CaseSection, ExpectSection

GUIDE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


def test_case_and_code_of_the_guide_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipelines_test.yaml").write_text(blocks("yaml")[0])
    Path("pipelines.yaml").write_text(
        "version: 1\npipelines:\n  p:\n    nodes:\n      read: {source: jsonl, with: {path: a.jsonl}}\n"
        "      save: {sink: jsonl, with: {path: b.jsonl}}\n"
    )
    (code,) = blocks("python")
    compiled = compile(code, "testing.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    anyio.run(lambda: eval(compiled, {}))


def test_table_of_keys_is_complete() -> None:
    table = GUIDE.partition("<!-- keys -->")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `([\w.]+)` \|", table, re.M)

    keys = [name for name in CaseSection.model_fields if name != "expect"]
    assert sorted(named) == sorted([*keys, *(f"expect.{name}" for name in ExpectSection.model_fields)])
