"""`engine.run`: settings of a file apply in the library as on the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

import engine

FILE = """\
version: 1
aliases: {one: first}
pipelines:
  first:
    params: {rows: 3}
    nodes:
      read: {source: blob, with: {records: "${params.rows}"}}
      out:  {sink: jsonl, with: {path: first.jsonl}}
    on_complete: second
  second:
    nodes:
      read: {source: jsonl, with: {path: first.jsonl}}
      out:  {sink: jsonl, with: {path: second.jsonl}}
  apart:
    nodes:
      read: {source: logs, with: {records: 1}}
      out:  {sink: jsonl, with: {path: apart.jsonl}}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pipelines.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.mark.slow
async def test_follower_starts_when_its_pipeline_has_completed(file: Path) -> None:
    reports = await engine.run(file)
    assert {name: report.tally.written for name, report in reports.items()} == {
        "first": 3,
        "apart": 1,
        "second": 3,
    }


@pytest.mark.slow
async def test_some_pipelines_by_name_or_alias_and_what_they_lead_to(file: Path) -> None:
    reports = await engine.run(file, only=["one"], params={"one": {"rows": 5}})
    assert {name: report.tally.written for name, report in reports.items()} == {"first": 5, "second": 5}
    assert list(await engine.run(file, only=["second"])) == ["second"]


@pytest.mark.slow
async def test_one_name_alone_may_be_given_as_a_text(file: Path) -> None:
    assert set(await engine.run(file, only="apart")) == {"apart"}


@pytest.mark.parametrize(
    ("what", "params", "said"),
    [
        (
            "pipelines.yaml",
            {"rows": 3},
            "as in {PIPELINE: {'rows': …}}",
        ),
        (
            {"pipelines": {}},
            None,
            "'pipelines' is a dict: give a file",
        ),
    ],
)
async def test_what_cannot_be_run_is_explained(file: Path, what: Any, params: Any, said: str) -> None:
    with pytest.raises(engine.ConfigError, match=re.escape(said)):
        await engine.run(what, params=params)


@pytest.mark.slow
async def test_plans_run_like_their_file_but_one_alone_has_no_followers(file: Path) -> None:
    plans = engine.load(file)
    assert sorted(await engine.run(plans)) == ["apart", "first", "second"]
    assert sorted(await engine.run(plans, only=["first"])) == ["first", "second"]
    assert list(await engine.run(plans["first"])) == ["first"]
    with pytest.raises(engine.ConfigError, match="only: unknown pipeline `frist`, did you mean `first`"):
        await engine.run(plans, only=["frist"])


async def test_nothing_follows_a_pipeline_that_failed(file: Path) -> None:
    (file.parent / "first.jsonl").mkdir()  # cannot be written
    reports = await engine.run(file, only=["first"])
    assert {name: report.ok for name, report in reports.items()} == {"first": False}


async def test_a_failed_run_is_resumed_as_often_as_its_retries_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.execution.session.FIRST_BACKOFF", 0.0)
    kept: list[Any] = []
    broken = [True]

    @engine.source(repeatable=True)
    async def numbers() -> AsyncGenerator[dict[str, int], None]:
        for number in range(5):
            yield {"n": number}

    @engine.sink
    def keep(records: list[Any]) -> None:
        if broken.pop() if broken else False:
            raise OSError("once")
        kept.extend(record["n"] for record in records)

    def demo(retries: int) -> engine.Pipeline:
        nodes = {"numbers": engine.node(numbers), "keep": engine.node(keep)}
        return engine.Pipeline("demo", settings={"retries": retries}, **nodes)  # type: ignore[arg-type]

    once = (await engine.run(demo(0)))["demo"]
    assert (once.ok, once.attempt, kept) == (False, 1, [])
    broken.append(True)
    again = (await engine.run(demo(1)))["demo"]
    assert (again.ok, again.attempt, kept) == (True, 2, [0, 1, 2, 3, 4])


async def test_modules_beside_the_file_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "steps_beside", raising=False)
    (tmp_path / "beside" / "steps_beside.py").write_text(
        "import engine\n\n@engine.transform\ndef twice(record: dict) -> dict:\n"
        "    return {'n': 2 * record['n']}\n"
    )
    (tmp_path / "in.jsonl").write_text('{"n": 4}\n')
    file = tmp_path / "beside" / "p.yaml"
    file.write_text(
        "version: 1\npipelines:\n  p:\n    nodes:\n      read: {source: jsonl, with: {path: ../in.jsonl}}\n"
        '      change: {transform: "steps_beside:twice"}\n'
        "      out: {sink: jsonl, with: {path: ../out.jsonl}}\n"
    )

    reports = await engine.run(file)

    assert reports["p"].ok
    assert (tmp_path / "out.jsonl").read_text() == '{"n":8}\n'
