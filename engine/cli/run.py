"""Run the pipelines of a file, all at the same time, to their end.

Ctrl-C (or SIGTERM) once: what has been read is delivered, then the runs end; twice: they end at once. Both
can be gone on with: --resume without a run takes up everything unfinished of the latest invocation.

Exit codes: 0 completed, 1 a run failed, 2 the file or the arguments are wrong, 3 the state directory or a
service cannot be used, 4 too many dead letters, 5 an outage, 6 drained, 7 --verify found figures that do
not agree; 130 or 143 when stopped at once.
"""

from __future__ import annotations

import argparse

from engine.cli.arguments import add_file_arguments, add_output_arguments, add_state_argument

SUMMARY = "run the pipelines of a file"

LATEST = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_file_arguments(parser)
    add_state_argument(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const=LATEST,
        metavar="RUN",
        help="go on with a run, or with all unfinished ones of the latest invocation",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="at the end, compare the figures with the ledger and with what the sinks have",
    )
    parser.add_argument(
        "--chaos",
        nargs="?",
        const="0",
        metavar="SEED",
        help="try each pipeline under kills and failures, on scratch sinks, and say what differs",
    )
    parser.add_argument("--yes", action="store_true", help="let --chaos use nodes that pay for their answers")
    parser.add_argument("--report", metavar="FILE", help="write what came of it there, as JSON")
    add_output_arguments(parser)
    parser.add_argument(
        "--memory", metavar="SIZE", help="bytes in flight for all pipelines together, as in 512MiB (256MiB)"
    )
    parser.add_argument(
        "--drain-limit",
        metavar="TIME",
        help="how long what has been read may take to be delivered after a signal, as in 2m (30s)",
    )
    parser.add_argument("--samples", metavar="DIR", help="the documents that the embedded S3 begins with")


def execute(options: argparse.Namespace) -> int:
    """Run; the exit code says what came of it."""
    from engine.cli.local.run import invoke

    return invoke(options)
