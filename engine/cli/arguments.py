"""Arguments that several verbs share."""

from __future__ import annotations

import argparse

__all__ = ["DEFAULT_FILE", "DEFAULT_STATE_DIR", "add_file_arguments", "add_state_argument"]

DEFAULT_FILE = "pipelines.yaml"
DEFAULT_STATE_DIR = ".odw"


def add_file_arguments(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """The file, which of its pipelines, and what to change in it."""
    if positional:
        parser.add_argument("file", nargs="?", default=DEFAULT_FILE, metavar="FILE", help="(pipelines.yaml)")
    else:
        parser.add_argument(
            "--file", default=DEFAULT_FILE, metavar="FILE", help="the file of the pipelines (pipelines.yaml)"
        )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this pipeline only; repeatable"
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="PIPELINE.NAME=VALUE",
        help="set a run parameter; repeatable",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="assignments",
        metavar="PATH=VALUE",
        help="change the file, as in pipelines.blobs.dead_letters.max=10; repeatable",
    )


def add_state_argument(parser: argparse.ArgumentParser) -> None:
    """Where runs and dead letters are kept."""
    parser.add_argument(
        "--state-dir", default=DEFAULT_STATE_DIR, metavar="DIR", help="where runs are remembered (.odw)"
    )
