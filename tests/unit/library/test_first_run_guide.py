"""docs/first-run.md: every file is valid, and those without services run with the documented counts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.cli import main

GUIDE = (Path(__file__).parents[3] / "docs" / "first-run.md").read_text("utf-8")
FILES = re.findall(r"^<!-- ([\w./]+)(?:: (.*?))? -->\n```\w+\n(.*?)^```", GUIDE, re.M | re.S)
PIPELINES = [(name, counts) for name, counts, _ in FILES if name.endswith(".yaml")]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, _, text in FILES:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text, "utf-8")


@pytest.mark.parametrize("name", [name for name, _ in PIPELINES])
def test_file_of_the_guide_is_valid(name: str) -> None:
    assert main(["validate", name]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "counts"), [one for one in PIPELINES if one[1]], ids=lambda one: str(one))
def test_file_of_the_guide_runs(name: str, counts: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", name, "--json", "--log-format", "none", "--progress", "none"]) == 0

    (report,) = json.loads(capsys.readouterr().out)["pipelines"].values()
    expected = {name: int(number) for name, number in (part.split() for part in counts.split(", "))}
    assert {name: report["tally"][name] for name in expected} == expected


def test_every_section_has_a_file_that_is_tried() -> None:
    assert len(PIPELINES) == 6
    assert GUIDE.count("```yaml") == 6
