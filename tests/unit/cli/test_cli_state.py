"""The place of the state, from the arguments; no message shows a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import options
from engine.cli.arguments import add_options
from engine.cli.options import StateOptions
from engine.cli.state import STATE_VARIABLE, shown_state, state_of, state_options
from engine.cli.verbs import VerbParser, main

SECRET = "hunter2"
ADDRESS = f"postgresql://etl:{SECRET}@db.example:5433/odw?sslmode=require&connect_timeout=3"


def parsed(*arguments: str) -> StateOptions:
    parser = VerbParser()
    add_options(parser, StateOptions)
    return options.parsed(StateOptions, parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STATE_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("arguments", "variable", "where"),
    [
        ([], "", ".odw"),
        (["--state-dir", "there"], "", "there"),
        ([], ADDRESS, ADDRESS),
        (["--state-dir", "there"], ADDRESS, ADDRESS),
        (["--state", "postgresql://other/odw"], ADDRESS, "postgresql://other/odw"),
        (["--state", "beside"], ADDRESS, "beside"),
        (["--state", "beside", "--state-dir", "there"], "", "beside"),
    ],
)
def test_argument_wins_over_environment_over_directory(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], variable: str, where: str
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, variable)
    assert state_of(parsed(*arguments)) == where  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "variable", "said"),
    [
        (["--state-dir", ADDRESS], "", "--state-dir takes a local directory"),
        (["--state", f"mysql://etl:{SECRET}@db/odw"], "", "--state is not a valid state store"),
        (["--state", f"host=db password={SECRET}"], "", "--state is not a valid state store"),
        ([], f"mysql://etl:{SECRET}@db/odw", "ODW_STATE is not a valid state store"),
        (
            ["--state", f"postgresql://etl:{SECRET}@@db/odw"],
            "",
            "the address of the state store is not valid",
        ),
    ],
)
def test_every_verb_refuses_a_bad_store_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    variable: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(STATE_VARIABLE, variable)
    assert main(["runs", "list", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert SECRET not in captured.out + captured.err
    assert list(tmp_path.iterdir()) == []


def test_hints_lead_to_the_same_state_and_hold_no_password() -> None:
    assert state_options(parsed()) == ""  # type: ignore[arg-type]
    assert state_options(parsed("--state", "my states")) == " --state 'my states'"  # type: ignore[arg-type]
    assert state_options(parsed("--state", ADDRESS, "--state-dir", "/var/odw")) == (  # type: ignore[arg-type]
        " --state-dir /var/odw"
        " --state 'postgresql://etl:***@db.example:5433/odw?sslmode=require&connect_timeout=3'"
    )


def test_reports_name_the_database_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert shown_state(parsed("--state", ADDRESS)) == "postgresql://etl@db.example:5433/odw"  # type: ignore[arg-type]
    assert shown_state(parsed()) == str(tmp_path / ".odw")  # type: ignore[arg-type]


def test_help_does_not_show_what_the_environment_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(STATE_VARIABLE, ADDRESS)
    for verb in (
        "run",
        "runs list",
        "dlq list",
        "journal list",
        "bookmarks list",
        "worker",
        "submit",
        "watch",
    ):
        assert main([*verb.split(), "--help"]) == 0
    said = capsys.readouterr().out
    assert "ODW_STATE" in said
    assert SECRET not in said
