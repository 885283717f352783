"""Findings of `doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from engine.cli.display.table import with_hanging_text
from engine.cli.exit_codes import ExitCode, most_serious
from engine.contract.types import JsonValue


class Level(StrEnum):
    """How serious a finding is. Only a problem changes the exit code."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Args:
        about: what was checked (`python`, `connection model`).
        found: the result, without secrets.
        remedy: what to do about it, "" if nothing is wrong.
        code: the exit code of a problem.
    """

    level: Level
    about: str
    found: str
    remedy: str = ""
    code: ExitCode = ExitCode.ENVIRONMENT


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the most serious exit code of the problems, 0 without any."""
    return int(most_serious(one.code for one in findings if one.level is Level.PROBLEM))


def as_text(findings: Sequence[Finding], width: int = 0) -> str:
    """Return a line for each finding, with its remedy below it; `width`: see `with_hanging_text`."""
    rows: list[tuple[str, str, str]] = []
    for one in findings:
        level = one.level.upper() if one.level is Level.PROBLEM else str(one.level)
        rows.append((level.ljust(7), one.about, one.found))
        if one.remedy:
            rows.append(("", "", f"→ {one.remedy}"))
    problems = sum(one.level is Level.PROBLEM for one in findings)
    last = f"{problems or 'no'} problem{'' if problems == 1 else 's'}"
    return "\n".join([*(with_hanging_text(rows, width) if rows else ()), last]) + "\n"


def as_json(findings: Sequence[Finding]) -> dict[str, JsonValue]:
    """Return the findings for machines."""
    return {
        "ok": not exit_code(findings),
        "findings": [
            {name: value for name, value in asdict(one).items() if name != "code"} for one in findings
        ],
    }
