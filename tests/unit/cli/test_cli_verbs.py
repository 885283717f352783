"""Finding the verb: help, versions, typos, and modules that must not be imported for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.display.table import with_hanging_text
from engine.cli.exit_codes import ExitCode
from engine.cli.verbs import VERBS

HEAVY = ("pydantic", "yaml", "rich", "structlog", "anyio", "asyncio", "engine.errors", "connectors", "httpx")


def imported_by(*arguments: str) -> set[str]:
    """The modules that are there after running the command line in a fresh interpreter."""
    code = (
        "import sys, io, json\n"
        "sys.stdout = io.StringIO()\n"
        "from engine.cli import main\n"
        f"main({list(arguments)!r})\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.__stdout__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), *((verb, "--help") for verb in VERBS)])
def test_help_imports_nothing_that_costs_time(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments).intersection(HEAVY)


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("  ")] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", verb]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m engine {verb}")
    assert len(shown.splitlines()) > 5


def test_no_verb_shows_the_help_and_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["valdate"], "python -m engine: unknown verb `valdate`: did you mean `validate`?\n"),
        (
            ["run", "--parm", "x"],
            "python -m engine run: unrecognized arguments: --parm (did you mean --param?)\n",
        ),
        (
            ["dlq", "list", "--patch", "x"],
            "python -m engine dlq: unrecognized arguments: --patch x (see python -m engine dlq --help)\n",
        ),
        (
            ["dlq", "replay", "--ptch=x"],
            "python -m engine dlq: unrecognized arguments: --ptch=x (did you mean --patch?)\n",
        ),
        (
            ["run", "a.yaml", "b.yaml"],
            "python -m engine run: unrecognized arguments: b.yaml (see python -m engine run --help)\n",
        ),
    ],
)
def test_a_slip_gets_one_line_with_the_nearest_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize(
    "arguments",
    [
        "dlq replay --limit -1", "dlq list --limit -1", "runs list --limit=-5", "journal list --limit 1.5",
        "bookmarks list --limit -1", "runs list --watch --interval nan", "top --interval -2",
        "doctor --timeout inf", "doctor --timeout 0", "plan --timeout -1", "plan --sample -1",
        "serve --port 99999", "serve --topics-port -1", "serve --files-port 65536", "submit --shards 0",
    ],
)  # fmt: skip
def test_impossible_numbers_are_refused(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments.split()) == 2
    assert re.search(r"argument --[a-z-]+: must be .*, got ", capsys.readouterr().err)


def test_abbreviated_options_are_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--res"]) == 2
    assert "unrecognized arguments: --res" in capsys.readouterr().err


def test_the_guide_has_every_verb_and_every_exit_code() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"| `{verb}" in guide
    assert [
        line.split()[1] for line in guide.splitlines() if line.startswith("| ") and line[2].isdigit()
    ] == [
        *(str(int(code)) for code in ExitCode),
        "130,",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 200])
def test_help_fits_the_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for verb in VERBS:
        main([verb, "--help"])
    text = capsys.readouterr().out
    prose = [line for line in text.splitlines() if line and not line.startswith((" ", "usage"))]
    assert max(map(len, prose)) <= min(columns, 100)


def test_help_of_an_action_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", "forget", "--help"])
    shown = capsys.readouterr().out
    assert "\nDelete a run with its splits and dead letters.\n" in shown
    assert "id of the run, as `runs list` shows it" in shown


def test_examples_in_help_can_be_copied(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/odw"])
    main(["runs", "--help"])
    assert "\n  odw runs list --watch\n" in capsys.readouterr().out


def test_text_in_a_table_is_filled_below_itself() -> None:
    rows = [("ok", "disk", "64 G free"), ("ok", "extras", "alpha, beta, gamma, delta, epsilon")]
    assert with_hanging_text(rows, 34) == [
        "ok  disk    64 G free",
        "ok  extras  alpha, beta, gamma,",
        "            delta, epsilon",
    ]
    assert with_hanging_text(rows, 0)[1].endswith("delta, epsilon")
