"""samples/invoices runs as documented."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anyio
import pytest

import engine
from engine.state.records import RunStatus
from engine.testing.cases import Case, load_cases, run_case

FOLDER = Path(__file__).parents[3] / "samples" / "invoices"


def test_the_invoices_become_order_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in FOLDER.iterdir():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)

    report = anyio.run(engine.run, "pipelines.yaml")["invoices"]

    assert report.status is RunStatus.COMPLETED, report.error
    assert report.tally.drops == {"real: test invoice": 1, "once: duplicate": 1}
    assert report.tally.dead == 1
    domestic = [json.loads(line) for line in Path("domestic.jsonl").read_text().splitlines()]
    foreign = [json.loads(line) for line in Path("foreign.jsonl").read_text().splitlines()]
    assert [(line["number"], line["sku"], line["gross"]) for line in domestic] == [
        ("R-1001", "lamp", 118.76),
        ("R-1001", "bulb", 24.99),
    ]
    assert [(line["number"], line["date"], line["gross"]) for line in foreign] == [
        ("R-1002", "2026-02-04", 1498.8),
        ("R-1004", "2026-02-05", 42.0),
    ]
    assert {line["customer_name"] for line in (*domestic, *foreign)} == {"***"}


@pytest.mark.slow
@pytest.mark.parametrize("case", load_cases(FOLDER / "pipelines_test.yaml"), ids=lambda case: case.name)
def test_the_cases_beside_the_sample_pass(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)  # the reference table is beside the file

    result = anyio.run(run_case, case)

    assert result.passed, result.text()
