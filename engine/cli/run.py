"""Run the pipelines of a file concurrently until they end.

Press Ctrl-C (or send SIGTERM) once to deliver what was read and then stop; twice to stop at once. Either
way the runs can be resumed: --resume without a run resumes every unfinished run of the latest invocation.

Exit codes: 0 completed, 1 a run failed, 2 invalid file or arguments, 3 state directory or service unusable,
4 too many dead letters, 5 outage, 6 drained, 7 --verify or --chaos found a difference; 130 or 143 when
stopped at once.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_file_arguments, add_output_arguments, add_state_argument
from engine.cli.options import RunOptions

LATEST = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_file_arguments(parser)
    add_state_argument(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const=LATEST,
        metavar="RUN",
        help="resume a run, or all unfinished runs of the latest invocation",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the final counts with the ledger and with what the sinks hold",
    )
    parser.add_argument(
        "--chaos",
        nargs="?",
        const="0",
        metavar="SEED",
        help="test each pipeline under kills and failures, on scratch sinks, and report differences",
    )
    parser.add_argument(
        "--kills", type=int, metavar="N", help="with --chaos, kill each disturbed run N times (default: 3)"
    )
    _add_trial_arguments(parser)
    parser.add_argument("--report", metavar="FILE", help="write a JSON report to FILE")
    parser.add_argument("--json", action="store_true", help="print the JSON report instead of the summary")
    add_output_arguments(parser)
    parser.add_argument(
        "--memory", metavar="SIZE", help="memory limit for all pipelines, e.g. 512MiB (default: 256MiB)"
    )
    parser.add_argument(
        "--drain-limit",
        metavar="TIME",
        help="time allowed to deliver what was read before a signal, e.g. 2m (default: 30s)",
    )
    parser.add_argument("--traces", metavar="URL", help="send OpenTelemetry traces to URL, over HTTP (OTLP)")
    parser.add_argument("--samples", metavar="DIR", help="sample documents for the embedded S3")


def _add_trial_arguments(parser: argparse.ArgumentParser) -> None:
    trial = parser.add_argument_group("trying out")
    trial.add_argument("--limit", type=int, metavar="N", help="stop each source after N records")
    trial.add_argument(
        "--sample", type=int, metavar="N", help="read N records of each source, drawn over its splits"
    )
    trial.add_argument("--seed", type=int, metavar="N", help="draw another sample (default: 0)")
    trial.add_argument(
        "--dry-run",
        action="store_true",
        help="deliver nothing and store nothing but paid answers: sinks only count",
    )
    trial.add_argument("--show", type=int, metavar="N", help="with --dry-run, print N records of each sink")
    trial.add_argument(
        "--yes", action="store_true", help="allow nodes that cost money with --dry-run and --chaos"
    )


def execute(options: RunOptions) -> int:
    """Run the pipelines and return the exit code."""
    from engine.cli.local.run import invoke

    return invoke(options)
