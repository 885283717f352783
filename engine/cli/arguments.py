"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import math
import os
import sys

from engine.cli.options import DEFAULT_FILE

_HIGHEST_PORT = 65_535


def this_command() -> str:
    """Return the command that runs this program again, for hints to copy.

    The interpreter is named by its path when it is that of an environment below the current folder which
    has not been activated.
    """
    if os.path.basename(sys.argv[0]).removesuffix(".exe") == "odw":
        return "odw"
    python = os.path.relpath(sys.executable) if os.name == "posix" else ""
    inside = python and not python.startswith("..") and sys.prefix != sys.base_prefix
    return f"{python if inside and not os.environ.get('VIRTUAL_ENV') else 'python'} -m engine"


def add_file_argument(parser: argparse.ArgumentParser, what: str = "pipeline file") -> None:
    """Declare the file, which may be left out."""
    parser.add_argument("file", nargs="?", metavar="FILE", help=f"{what} (default: {DEFAULT_FILE})")


def add_file_arguments(parser: argparse.ArgumentParser, *, assignments: bool = True) -> None:
    """Declare the file, its pipelines and overrides."""
    add_file_argument(parser)
    parser.add_argument("--only", action="append", metavar="NAME", help="run only this pipeline; repeatable")
    add_change_arguments(parser, assignments=assignments)


def add_change_arguments(parser: argparse.ArgumentParser, *, assignments: bool = True) -> None:
    """Declare overrides of the file; `assignments`: of any value, in addition to run parameters."""
    parser.add_argument(
        "--param", action="append", metavar="PIPELINE.NAME=VALUE", help="set a run parameter; repeatable"
    )
    if assignments:
        parser.add_argument(
            "--set",
            action="append",
            dest="assignments",
            metavar="PATH=VALUE",
            help="override a value of the file, e.g. pipelines.blobs.dead_letters.max=10; repeatable",
        )


def add_interval_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--interval`."""
    parser.add_argument(
        "--interval", type=more_than_none, metavar="SECONDS", help="time between two updates (default: 2)"
    )


def add_limit_argument(parser: argparse.ArgumentParser, what: str = "show the newest N") -> None:
    """Declare `--limit` of a listing."""
    parser.add_argument(
        "--limit", type=none_or_more, default=50, metavar="N", help=f"{what}; 0 shows all (default: 50)"
    )


def add_state_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the state directory and the state store."""
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="directory of run state and of the sandbox's warehouse (default: .odw)",
    )
    parser.add_argument(
        "--state",
        metavar="WHERE",
        help=(
            "state store: postgresql://USER@HOST/DATABASE or a directory (default: ODW_STATE, else "
            "--state-dir)"
        ),
    )


def add_progress_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--progress`."""
    parser.add_argument(
        "--progress",
        choices=("auto", "live", "plain", "json", "none"),
        help="progress display (default: auto: live on a terminal, otherwise a plain line every few seconds)",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the output during runs."""
    add_progress_argument(parser)
    parser.add_argument(
        "--log-format",
        choices=("json", "console", "none"),
        help="format of structured events on standard error (default: json unless it is a terminal)",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def none_or_more(text: str) -> int:
    """For argparse: 0 or more."""
    return _whole(text, "a whole number, 0 or more", 0)


def at_least_one(text: str) -> int:
    """For argparse: 1 or more."""
    return _whole(text, "a whole number, 1 or more", 1)


def port(text: str) -> int:
    """For argparse: a port, 0 for any."""
    return _whole(text, f"a port from 0 to {_HIGHEST_PORT}", 0, _HIGHEST_PORT)


def _whole(text: str, expected: str, lowest: int, highest: float = math.inf) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text}")
    return number


def more_than_none(text: str) -> float:
    """For argparse: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text}")
    return number
