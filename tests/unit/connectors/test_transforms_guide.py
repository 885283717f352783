"""docs/transforms.md matches the code: its functions, tables and examples."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from textwrap import indent

import anyio
import pytest

import engine
from connectors.expressions import Expression
from connectors.expressions.compiling import signature_text
from connectors.expressions.functions import FUNCTIONS

GUIDE = (Path(__file__).parents[3] / "docs" / "transforms.md").read_text("utf-8")


def test_the_table_of_functions_is_complete_and_true() -> None:
    table = GUIDE.split("### Functions\n", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| `(.+?)` \| (.+?) \|$", table, re.M))
    known = {
        name + signature_text(function): (inspect.getdoc(function) or "").partition("\n")[0]
        for name, function in FUNCTIONS.items()
    }
    pattern = rows.pop("matches(text, 'pattern')")

    assert "linear" in pattern
    assert rows == known
    assert list(rows) == sorted(rows)


def test_the_examples_of_expressions_are_expressions() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]

    assert len(lines) >= 6
    for line in lines:
        Expression(line)


def test_the_guide_is_right_about_missing_fields() -> None:
    record = {"customer": {}, "tags": ["a"]}
    table = GUIDE.split("### Missing fields\n", 1)[1].split("### Errors", 1)[0]
    shown = {
        "`False`": False,
        "`True`": True,
        "`None`": None,
    }
    checked = 0
    for left, right in re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.M):
        word = re.match(r"`(True|False|None)`(?!, `)", right)
        if word is None:
            continue
        for text in re.findall(r"`([^`]+)`", left):
            assert Expression(text).evaluate(record) is shown[f"`{word[1]}`"], text
            checked += 1
    assert checked >= 12


EXAMPLES = re.findall(
    r"^```yaml\n(.*?)^```\n\n```jsonl\n(.*?)^```\n\n```jsonl\n(.*?)^```", GUIDE, re.M | re.S
)


def test_every_block_of_yaml_is_an_example_with_its_records() -> None:
    assert GUIDE.count("```yaml") == len(EXAMPLES)
    assert GUIDE.count("```jsonl") == 2 * len(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=[one[0].partition(":")[0] for one in EXAMPLES])
def test_example_of_the_guide_makes_what_it_shows(
    example: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, given, expected = example
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(given)
    if "countries.csv" in nodes:
        Path("countries.csv").write_text(GUIDE.split("```csv\n", 1)[1].split("```", 1)[0])
    if "sink:" not in nodes:
        nodes += "write: {sink: jsonl, with: {path: out.jsonl}}\n"
    read = "read: {source: jsonl, with: {path: in.jsonl}}\n"
    head = "version: 1\npipelines:\n  example:\n    dead_letters: {max: 100%}\n    nodes:\n"
    Path("file.yaml").write_text(head + indent(read + nodes, " " * 6))

    reports = anyio.run(engine.run, "file.yaml")

    assert reports["example"].error == ""
    made = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    if "input: [" in nodes:  # where branches meet, their records come in any order
        made.sort(key=lambda record: record["id"])
    assert made == [json.loads(line) for line in expected.splitlines()]
