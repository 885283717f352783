"""The command line: ``list``, ``run`` and ``report``.

Exit codes: 0 measured (a missed goal and a skipped benchmark included), 1 a result is invalid because the
arms did not do the same work or one failed, 2 wrong usage or an unreadable result file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import results
from benchmarks.discovery import UnknownBenchmarkError, discover, select
from benchmarks.harness import Settings, run
from benchmarks.model import Scale
from benchmarks.report import render

OK, INVALID, USAGE = 0, 1, 2
QUICK_PAIRS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "list":
        return _list()
    if arguments.command == "report":
        return _report(arguments.files)
    return _run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure the engine against its peers."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name every benchmark and its arms")
    runs = commands.add_parser("run", help="measure, print the tables and store the results")
    runs.add_argument(
        "names", nargs="*", metavar="NAME", help="a benchmark or a module of the suite (default: all)"
    )
    runs.add_argument("--pairs", type=_positive, metavar="N", help="counted rounds (default: by benchmark)")
    runs.add_argument("--quick", action="store_true", help="small sizes, 3 rounds; stored only with --out")
    runs.add_argument("--out", type=Path, metavar="FILE", help="store here (default: results/<name>.json)")
    runs.add_argument("--seed", type=int, default=1, help="of orders and intervals (default: 1)")
    runs.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for the whole run; partial results are kept"
    )
    runs.add_argument("--no-gc", action="store_true", help="turn the garbage collector off while measuring")
    reports = commands.add_parser("report", help="print tables from stored results")
    reports.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: all that are stored")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _list() -> int:
    for module, group in discover(Scale()).items():
        for benchmark in group:
            print(f"{benchmark.name}  [{module}]  {benchmark.description}")
            for arm in benchmark.arms:
                print(f"    {arm.name}{' (reference)' if arm.name == benchmark.reference else ''}")
    return OK


def _run(arguments: argparse.Namespace) -> int:
    try:
        chosen = select(discover(Scale(quick=arguments.quick)), arguments.names)
    except UnknownBenchmarkError as error:
        print(error, file=sys.stderr)
        return USAGE
    settings = Settings(
        pairs=arguments.pairs or (QUICK_PAIRS if arguments.quick else None),
        seed=arguments.seed,
        deadline=None if arguments.timeout is None else time.monotonic() + arguments.timeout,
        quick=arguments.quick,
        gc_enabled=not arguments.no_gc,
    )
    measured: list[results.Result] = []
    for benchmark in chosen:
        result = run(benchmark, settings, partial(_progress, benchmark.name))
        measured.append(result)
        _progress("", "")
        print(render(result), end="\n\n", flush=True)
        # Stored at once, so that a killed run keeps its results.
        if arguments.out:
            results.store(measured, arguments.out)
        elif result.status in ("complete", "partial") and result.samples and not arguments.quick:
            results.store([result], results.DIRECTORY / f"{result.name}.json")
        if result.reason == "interrupted":
            break
    return INVALID if any(result.status == "invalid" for result in measured) else OK


def _progress(name: str, text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[2K{name} {text}", end="\r", file=sys.stderr, flush=True)


def _report(files: Sequence[Path]) -> int:
    paths = list(files) or sorted(results.DIRECTORY.glob("*.json"))
    if not paths:
        print("no results yet: python -m benchmarks run", file=sys.stderr)
        return USAGE
    invalid = False
    for path in paths:
        try:
            found = results.load(path)
        except (OSError, ValueError) as error:
            print(f"{path}: not a result file: {error}", file=sys.stderr)
            return USAGE
        for result in found:
            print(render(result), end="\n\n")
            invalid = invalid or result.status == "invalid"
    return INVALID if invalid else OK
