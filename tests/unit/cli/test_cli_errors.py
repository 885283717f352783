"""Likely mistakes give one message with place and remedy; docs/errors.md and `explain` are complete."""

from __future__ import annotations

import re

import pytest

import engine.errors
from engine.cli import main
from engine.cli.exit_codes import ExitCode
from engine.cli.explanations import ALL, DEAD_LETTERS, ERRORS, EXIT_CODES
from tests.unit.cli.mistakes import MISTAKES, PAGE, ROOT, Mistake, printed

ALL_MISTAKES = [one for mistakes in MISTAKES.values() for one in mistakes]
EVERY = pytest.mark.parametrize("mistake", ALL_MISTAKES, ids=[one.title for one in ALL_MISTAKES])
PLACE = re.compile(r"^\S+:\d+:\d+: |^[\w./]+: |^--?\w+|^error: |^orders: |^python -m engine")
DOCUMENTED = PAGE.read_text("utf-8")


@pytest.fixture(autouse=True)
def _activated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere/.venv")


@EVERY
def test_a_mistake_gives_one_message_as_documented(mistake: Mistake) -> None:
    code, text = printed(mistake)

    assert code in set(ExitCode) - {ExitCode.COMPLETED}
    assert "Traceback" not in text
    assert "internal error" not in text.lower()
    lines = text.splitlines()
    assert len(lines) == 1 or lines[0].endswith("problems:")
    assert PLACE.match(lines[-1]), text
    section = DOCUMENTED.partition(f"### {mistake.title}\n")[2].partition("\n### ")[0].partition("\n## ")[0]
    assert f"exits with {code}:\n\n```text\n{text.rstrip()}\n```" in section, (
        "write the page again: python -m tests.unit.cli.mistakes"
    )


def test_the_page_has_fifty_mistakes_and_no_other() -> None:
    titles = re.findall(r"^### (.+)$", DOCUMENTED, re.M)

    assert titles == [one.title for one in ALL_MISTAKES]
    assert len(titles) >= 50


def test_every_exit_code_is_explained() -> None:
    assert {str(int(code)) for code in ExitCode} <= set(EXIT_CODES)


def test_every_error_is_explained() -> None:
    errors = {
        name
        for name, value in vars(engine.errors).items()
        if isinstance(value, type)
        and issubclass(value, engine.errors.EngineError)
        and value.__module__ == "engine.errors"
    }

    assert errors - {"EngineError"} == set(ERRORS)


@pytest.mark.slow
def test_explained_types_of_dead_letters_exist() -> None:
    modules = [path for folder in ("engine", "connectors") for path in (ROOT / folder).rglob("*.py")]
    code = "".join(path.read_text("utf-8") for path in modules if path.name != "explanations.py")

    assert [name for name in DEAD_LETTERS if f'"{name}"' not in code] == []


@pytest.mark.slow
def test_every_type_of_dead_letter_is_explained() -> None:
    modules = [path for folder in ("engine", "connectors") for path in (ROOT / folder).rglob("*.py")]
    code = "".join(path.read_text("utf-8") for path in modules if "testing" not in path.parts)
    kinds = re.findall(r'\bkind ?= ?"([A-Z]\w+)"', code)

    assert set(kinds) - set(DEAD_LETTERS) == set()


@pytest.mark.parametrize("code", ["5", "outageerror", "MissingFields", "Http422"])
def test_explain_says_meaning_and_remedy(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", code]) == 0
    head, _, remedy = capsys.readouterr().out.partition("\n\n")
    assert head.lower().startswith(f"{code.lower()}: ")
    assert remedy.strip()


def test_explain_lists_all_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {code} " in listed for code in ALL)

    assert main(["explain", "OutagError"]) == 2
    assert "did you mean `OutageError`?" in capsys.readouterr().err
