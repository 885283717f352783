"""Implementation of `run --chaos`: each pipeline under kills and failures, on scratch sinks."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from engine.chaos import ChaosReport, Disturbances, chaos
from engine.cli.display.numbers import counted
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode
from engine.cli.loading import load_plans
from engine.cli.local.signals import stop_signals
from engine.cli.local.trial import with_less_reading
from engine.cli.options import RunOptions
from engine.contract.background import background_tasks
from engine.errors import ConfigError
from engine.execution.engine import Engine
from engine.plan.model import Plan


def seed_of(text: str) -> int:
    """Return the seed of `--chaos`. Raises ConfigError."""
    if not text.isdecimal() or len(text) > 12:
        raise ConfigError(f"--chaos: expected a seed such as 7, got {text!r}")
    return int(text)


def plan_of(options: RunOptions, name: str) -> Plan:
    """Return the plan of a pipeline; called in child processes. Raises ConfigError."""
    return with_less_reading(options, load_plans(options, only=[name]))[name]


async def try_pipelines(options: RunOptions, names: Iterable[str], seed: int) -> int:
    """Test one pipeline after the other; return 7 when a disturbed run differs from the undisturbed one.

    A signal ends the trial and its child process, and removes the scratch files.

    Raises:
        ConfigError: a pipeline pays for answers without permission, or does not complete undisturbed.
    """
    codes: list[int] = []
    async with background_tasks() as group:

        async def stop() -> None:
            codes.append(128 + await stop_signals())
            group.cancel_scope.cancel()

        group.start_soon(stop)
        codes.append(await _tried(options, names, seed))
    return codes[0]


async def _tried(options: RunOptions, names: Iterable[str], seed: int) -> int:
    ok = True
    samples = Path(options.samples) if options.samples else None
    how = Disturbances() if options.kills is None else Disturbances(kills=options.kills)
    async with Engine(samples=samples) as owner:
        for name in names:
            tell = partial(_tell, name) if sys.stderr.isatty() and not options.quiet else _say_nothing
            load = partial(plan_of, options, name)
            report = await chaos(load, seed=seed, how=how, paid=options.yes, owner=owner, tell=tell)
            sys.stdout.write(printable(_text(report, options.kills)))
            sys.stdout.flush()
            ok = ok and report.ok
    return ExitCode.COMPLETED if ok else ExitCode.NOT_VERIFIED


def _tell(pipeline: str, line: str) -> None:
    sys.stderr.write(f"{pipeline}: {line}\n")


def _say_nothing(line: str) -> None:
    """Print nothing: standard error is not a terminal."""


def _text(report: ChaosReport, given: int | None) -> str:
    runs, kills = counted(len(report.seeds), "disturbed run"), counted(report.kills, "kill")
    head = f"{report.pipeline}: {counted(report.records, 'record')}, {runs}, {kills}"
    if report.ok:
        return f"{head}: nothing lost, doubled or changed\n"
    lines = "".join(f"  {finding}\n" for finding in report.findings)
    kills_given = "" if given is None else f" --kills {given}"
    again = f"--only {report.pipeline} --chaos {report.seeds[-1]}{kills_given}"
    return f"{head}: DIFFERS FROM THE UNDISTURBED RUN\n{lines}  again: {again}\n"
