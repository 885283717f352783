"""What `run --chaos` does: each pipeline under kills and failures, on scratch sinks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from engine.chaos import ChaosReport, chaos
from engine.cli.display.numbers import counted
from engine.cli.exit_codes import ExitCode
from engine.cli.options import RunOptions
from engine.errors import ConfigError
from engine.execution.engine import Engine
from engine.plan.model import Plan

__all__ = ["seed_of", "try_pipelines"]


def seed_of(text: str) -> int:
    """The seed that `--chaos` names. Raises ConfigError."""
    if not text.isdecimal() or len(text) > 12:
        raise ConfigError(f"--chaos: expected a seed such as 7, got {text!r}")
    return int(text)


async def try_pipelines(options: RunOptions, plans: Mapping[str, Plan], seed: int) -> int:
    """Try one after the other; 7 when a disturbed run differs from the undisturbed one.

    Raises:
        ConfigError: a pipeline pays for answers and that is not allowed, or does not complete undisturbed.
    """
    ok = True
    samples = Path(options.samples) if options.samples else None
    async with Engine(samples=samples) as owner:
        for name in [one for one in plans if not options.only or one in options.only]:
            report = await chaos(plans[name], seed=seed, paid=options.yes, owner=owner)
            sys.stdout.write(_text(report))
            ok = ok and report.ok
    return ExitCode.COMPLETED if ok else ExitCode.NOT_VERIFIED


def _text(report: ChaosReport) -> str:
    runs, kills = counted(len(report.seeds), "disturbed run"), counted(report.kills, "kill")
    head = f"{report.pipeline}: {counted(report.records, 'record')}, {runs}, {kills}"
    if report.ok:
        return f"{head}: nothing lost, doubled or changed\n"
    lines = "".join(f"  {finding}\n" for finding in report.findings)
    again = f"--only {report.pipeline} --chaos {report.seeds[-1]}"
    return f"{head}: NOT THE SAME AS UNDISTURBED\n{lines}  again: {again}\n"
