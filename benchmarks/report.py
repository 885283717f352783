"""Print results as a table: figures of every arm, paired comparison with the reference, goals."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import figures
from benchmarks.model import CONTROL, Goal
from benchmarks.results import Result
from benchmarks.statistics import Summary, median, paired, summarise

HEADINGS = ("arm", "n", "median (min - max)", "cpu", "peak rss", "rate", "against reference", "95% interval")


def render(result: Result) -> str:
    """Format one result as lines of text."""
    lines = [f"{result.name}: {result.description}"]
    if result.samples:
        lines.append(f"  {_circumstances(result)}")
    if result.status != "complete":
        lines.append(f"  {result.status.upper()}: {result.reason}")
    if result.samples:
        measured = [arm for arm in result.arms if result.by_round(arm, result.metric)]
        lines += _table([HEADINGS, *(_row(result, arm) for arm in measured)])
        lines += [f"  {line}" for line in (*_goals(result), *_control(result))]
    lines += [f"  not run: {arm}: {reason}" for arm, reason in result.skipped.items()]
    return "\n".join(lines)


def comparison(result: Result, arm: str) -> Summary | None:
    """Compare an arm with the reference, pair by pair; return None if no round has both."""
    pairs = paired(
        result.by_round(arm, result.metric),
        result.by_round(result.reference, result.metric),
        result.comparison,
    )
    return summarise(pairs, result.seed) if pairs else None


def reached(result: Result, arm: str, goal: Goal) -> float | None:
    """Return the value of a goal's figure, or None if it was not measured."""
    if goal.figure in ("ratio", "difference"):
        summary = comparison(result, arm) if goal.figure == result.comparison else None
        return summary.median if summary else None
    values = result.by_round(arm, goal.figure)
    return median(list(values.values())) if values else None


def control_is_sound(result: Result) -> bool | None:
    """Return whether the control's interval includes "no difference"; None with too few pairs."""
    summary = comparison(result, CONTROL)
    if summary is None or summary.interval is None:
        return None
    none = 1.0 if result.comparison == "ratio" else 0.0
    return summary.interval[0] <= none <= summary.interval[1]


def _circumstances(result: Result) -> str:
    machine, python = result.machine, result.python
    commit = str(result.commit.get("id") or "no commit")[:12]
    if result.commit.get("dirty"):
        commit += " with changes"
    parts = [
        f"{result.rounds} rounds, seed {result.seed}, comparing {result.metric}",
        f"{machine.get('usable_cores')} x {machine.get('cpu_model')}",
        f"Python {python.get('version')}",
        commit,
        result.started_at,
    ]
    return "; ".join(parts + (["QUICK: sizes too small to judge by"] if result.quick else []))


def _row(result: Result, arm: str) -> tuple[str, ...]:
    values = list(result.by_round(arm, result.metric).values())
    middle, low, high = (
        figures.render(result.metric, value, result.unit)
        for value in (median(values), min(values), max(values))
    )
    others = (_median_of(result, arm, figure) for figure in (figures.CPU, figures.PEAK_RSS, figures.RATE))
    against, interval = "reference", ""
    if arm != result.reference:
        summary = comparison(result, arm)
        against, interval = _compared(result, summary) if summary else ("no pairs", "")
    return (arm, str(len(values)), f"{middle} ({low} - {high})", *others, against, interval)


def _median_of(result: Result, arm: str, figure: str) -> str:
    values = list(result.by_round(arm, figure).values())
    return figures.render(figure, median(values), result.unit) if values else "-"


def _compared(result: Result, summary: Summary) -> tuple[str, str]:
    against = (
        f"{_value(result, summary.median)} ({_value(result, summary.low)} - {_value(result, summary.high)})"
    )
    if summary.interval is None:
        return against, "too few pairs"
    return against, f"{_value(result, summary.interval[0])} - {_value(result, summary.interval[1])}"


def _value(result: Result, value: float) -> str:
    if result.comparison == "ratio":
        return f"{value:.3f}"
    return ("+" if value >= 0 else "") + figures.render(result.metric, value, result.unit)


def _goals(result: Result) -> list[str]:
    lines = []
    for arm, goals in result.arms.items():
        for goal in goals:
            value = reached(result, arm, goal)
            wanted = f"goal {arm}: {goal.figure} {goal.relation} {_goal_value(result, goal, goal.value)}"
            if value is None:
                lines.append(f"{wanted}: not measured")
            else:
                verdict = "met" if goal.met_by(value) else "MISSED"
                lines.append(f"{wanted}: {verdict} with {_goal_value(result, goal, value)}")
    return lines


def _goal_value(result: Result, goal: Goal, value: float) -> str:
    if goal.figure == "ratio":
        return f"{value:.3f}"
    figure = result.metric if goal.figure == "difference" else goal.figure
    return figures.render(figure, value, result.unit)


def _control(result: Result) -> list[str]:
    if control_is_sound(result) is False:
        return [
            "the control differs from the reference it repeats: believe no difference as small as its own"
        ]
    return []


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [f"  {line.rstrip()}" for line in lines]
