"""Errors become one message and one exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.exit_codes import ExitCode, code_of, explain, most_serious
from engine.errors import (
    ConfigError,
    DeadLetterBudgetError,
    EngineError,
    NodeFailedError,
    OutageError,
    PipelineTimeoutError,
    Problem,
    RunMismatchError,
    RunNotFoundError,
    ServiceError,
    StateFullError,
    TransientError,
)


def unreachable() -> NodeFailedError:
    error = NodeFailedError("load", "cannot be opened")
    error.__cause__ = TransientError("no service listens")
    return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NodeFailedError("load", "a bug"), ExitCode.FAILED),
        (PipelineTimeoutError("too long"), ExitCode.FAILED),
        (ValueError("a bug of ours"), ExitCode.FAILED),
        (ConfigError("wrong"), ExitCode.USAGE),
        (RunNotFoundError("no such run"), ExitCode.USAGE),
        (RunMismatchError("another plan"), ExitCode.USAGE),
        (StateFullError("no space"), ExitCode.ENVIRONMENT),
        (ServiceError("did not start"), ExitCode.ENVIRONMENT),
        (unreachable(), ExitCode.ENVIRONMENT),
        (DeadLetterBudgetError("too many"), ExitCode.DEAD_LETTER_BUDGET),
        (OutageError("nothing got through"), ExitCode.OUTAGE),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: BaseException, code: ExitCode) -> None:
    assert code_of(error) is code


def test_of_several_codes_the_one_that_no_new_attempt_mends_wins() -> None:
    assert most_serious([]) is ExitCode.COMPLETED
    assert most_serious([ExitCode.COMPLETED, ExitCode.INTERRUPTED]) is ExitCode.INTERRUPTED
    assert most_serious([ExitCode.INTERRUPTED, ExitCode.OUTAGE, ExitCode.FAILED]) is ExitCode.FAILED
    assert {most_serious([code]) for code in ExitCode} == set(ExitCode)


def test_all_problems_of_a_file_are_shown_with_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem("second", "a.b", "f.yaml", 3, 1), Problem("first", "a", "f.yaml", 2, 5, "a hint")]
    assert explain(ConfigError(problems)) == 2
    shown = capsys.readouterr().err
    assert shown == "2 problems:\nf.yaml:2:5: a: first (a hint)\nf.yaml:3:1: a.b: second\n"


def test_the_first_error_of_a_group_is_the_one_explained(capsys: pytest.CaptureFixture[str]) -> None:
    group = BaseExceptionGroup("tasks", [BaseExceptionGroup("inner", [EngineError("what happened")])])
    assert explain(group) == 1
    assert capsys.readouterr().err == "error: what happened\n"


def test_a_traceback_is_shown_only_when_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ODW_TRACEBACK", raising=False)
    assert explain(KeyError("lost")) == 1
    shown = capsys.readouterr().err
    assert "KeyError: 'lost'" in shown
    assert "ODW_TRACEBACK=1" in shown
    assert "Traceback" not in shown
    monkeypatch.setenv("ODW_TRACEBACK", "1")
    try:
        raise KeyError("lost")
    except KeyError as error:
        explain(error)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_keyboard_interrupt_before_the_run_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_missing_dependency_names_the_python_that_has_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = ModuleNotFoundError("No module named 'anyio'", name="anyio")
    assert explain(missing) == 2
    assert "the dependencies are not installed for" in (shown := capsys.readouterr().err)
    assert "README.md" in shown
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    explain(missing)
    assert "use .venv/bin/python -m engine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        ([], "5ecret.5a17", "ODW_INGEST_API_KEY is not a token hash"),
        (["--port", "99999"], "", "--port: must be a port from 0 to 65535, got 99999"),
    ],
)
def test_serve_refuses_what_cannot_be_right_without_quoting_a_key(
    arguments: list[str],
    key: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ODW_INGEST_API_KEY", key)
    assert main(["serve", *arguments]) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert message in shown.err
    assert "5ecret" not in shown.err + shown.out


def test_a_full_disk_behind_standard_output_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(OSError(28, "No space left on device")) == ExitCode.FAILED
    assert capsys.readouterr().err == "error: cannot write to standard output: No space left on device\n"


@pytest.mark.parametrize(("given", "code"), [(0, 1), (None, 1), (6, 6)])
def test_a_component_that_calls_sys_exit_fails(
    given: int | None, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain(SystemExit(given)) == code
    assert capsys.readouterr().err == "error: SystemExit: a component cannot end the process\n"
