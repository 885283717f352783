"""Run the pipelines of a file concurrently until they end.

Press Ctrl-C (or send SIGTERM) once to deliver what was read and then stop; twice to stop at once. Either
way the runs can be resumed: --resume without a run resumes every unfinished run of the latest invocation.

Exit codes: 0 completed, 1 a run failed, 2 invalid file or arguments, 3 state directory or service unusable,
4 too many dead letters, 5 outage, 6 drained, 7 --verify or --chaos found a difference; 130 or 143 when
stopped at once.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_options
from engine.cli.options import FileOptions, OutputOptions, PlanOptions, RunOptions, StateOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, FileOptions)
    add_options(parser, PlanOptions)
    add_options(parser, StateOptions)
    add_options(parser, RunOptions, "resume", "verify", "chaos", "kills")
    trial = parser.add_argument_group("trying out")
    add_options(trial, RunOptions, "limit", "sample", "seed", "dry_run", "show", "yes")
    add_options(parser, RunOptions, "report", "json")
    add_options(parser, OutputOptions)
    add_options(parser, RunOptions, "memory", "drain_limit", "traces", "samples")


def execute(options: RunOptions) -> int:
    """Run the pipelines and return the exit code."""
    from engine.cli.local.run import invoke

    return invoke(options)
