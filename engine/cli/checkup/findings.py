"""What `doctor` finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from engine.cli.exit_codes import ExitCode, most_serious
from engine.contract.types import JsonValue

__all__ = ["Finding", "Level", "as_json", "as_text", "exit_code"]


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
        remedy: what to do about it, "" for nothing.
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


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line for each finding, with its remedy below it."""
    width = max((len(one.about) for one in findings), default=0)
    lines = []
    for one in findings:
        level = one.level.upper() if one.level is Level.PROBLEM else str(one.level)
        lines.append(f"{level:<8} {one.about:<{width}}  {one.found}")
        if one.remedy:
            lines.append(f"{'':<{9 + width}}  → {one.remedy}")
    problems = sum(one.level is Level.PROBLEM for one in findings)
    lines.append(f"{problems or 'no'} problem{'' if problems == 1 else 's'}")
    return "\n".join(lines) + "\n"


def as_json(findings: Sequence[Finding]) -> dict[str, JsonValue]:
    """Return the findings for machines."""
    return {
        "ok": not exit_code(findings),
        "findings": [
            {name: value for name, value in asdict(one).items() if name != "code"} for one in findings
        ],
    }
