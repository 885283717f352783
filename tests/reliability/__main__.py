"""`python -m tests.reliability`: the long form of the reliability tests, with results in files.

    python -m tests.reliability all --seed 1 --out benchmarks/results/reliability
    python -m tests.reliability kills drains --seed 2 --out /tmp/reliability --minutes 9

A series is fixed by its seed. It continues where its file ends, so the same command, given again, continues
where it was interrupted or out of time. Exit codes: 0 all done and nothing lost or doubled, 1 a trial found
a problem, 2 wrong usage, 3 not all done yet.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.reliability.harness.results import ResultFile, table
from tests.reliability.harness.series import SERIES, Entry

__all__ = ["main"]

ALL = "all"
COMPLETED, FOUND_PROBLEMS, UNFINISHED = 0, 1, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the series that are asked for; 0 when they are complete and nothing was lost or doubled."""
    parser = _parser()
    options = parser.parse_args(argv)
    names = list(SERIES) if ALL in options.series else list(dict.fromkeys(options.series))
    until = time.monotonic() + options.minutes * 60
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        files = [ResultFile(SERIES[name], options.seed, options.out) for name in names]
    except ValueError as error:
        parser.error(str(error))
    for file in files:
        _go_on(file, until)
    _say(table(files))
    if any(file.problems for file in files):
        return FOUND_PROBLEMS
    if not all(file.done for file in files):
        _say("not all done yet: the same command continues")
        return UNFINISHED
    return COMPLETED


def _go_on(file: ResultFile, until: float) -> None:
    """Trial after trial until the series is complete or the time is over."""
    if file.done or time.monotonic() > until:
        return
    # files of trials with problems stay there to be looked at
    folder = Path(tempfile.mkdtemp(prefix=f"reliability-{file.series.name}-"))
    before = file.problems
    with file.series.open(folder) as trial:
        while not file.done and time.monotonic() < until:
            entry = trial(file.seed, len(file.trials))
            file.add(entry)
            _say(_line(entry))
    if file.problems > before:
        _say(f"the files of these trials are in {folder}")
    else:
        shutil.rmtree(folder)


def _line(entry: Entry) -> str:
    verdict = "; ".join(entry["problems"]) or "nothing lost, nothing twice"
    struck = ", ".join(entry["struck"]) or "nothing"
    return f"{entry['name']}  {entry['seconds']:.0f} s  struck: {struck}: {verdict}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("series", nargs="+", choices=[ALL, *SERIES], metavar="SERIES", help=_series())
    parser.add_argument("--seed", type=int, default=1, help="of the series (1)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the result files are"
    )
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no trial later than that (600)")
    return parser


def _series() -> str:
    return f"{ALL}, or any of {', '.join(SERIES)}"


if __name__ == "__main__":
    raise SystemExit(main())
