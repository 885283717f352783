"""The result files of the long form, one per series, written after every trial; and their table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.reliability.harness.children import ROOT
from tests.reliability.harness.outcome import STOPPED
from tests.reliability.harness.series import Entry, Series

__all__ = ["ResultFile", "table"]

VERSION = 2
SUMMED = (
    "documents_paid_again",
    "requests",
    "redelivered",
    "duplicates",
    "records_redone",
    "chunks",
    "handed_back",
)


class ResultFile:
    """The trials of one series so far.

    Raises:
        ValueError: the file holds a series with another seed, or is of another version.
    """

    def __init__(self, series: Series, seed: int, folder: Path) -> None:
        self.series = series
        self.seed = seed
        self.trials: list[Entry] = []
        self._path = folder / f"{series.name}.json"
        self._commits: list[str] = []
        if self._path.exists():
            document = json.loads(self._path.read_text("utf-8"))
            if (document["version"], document["seed"]) != (VERSION, seed):
                raise ValueError(f"{self._path} holds another series: name another folder, or move it away")
            self.trials, self._commits = document["trials"], document["commits"]

    @property
    def done(self) -> bool:
        """Whether there is enough."""
        return self.series.done(self.trials)

    @property
    def problems(self) -> int:
        """Trials with problems."""
        return sum(bool(trial["problems"]) for trial in self.trials)

    def add(self, entry: Entry) -> None:
        """Take one more trial, and write the file."""
        self.trials.append(entry)
        commit = _commit()
        if commit not in self._commits:
            self._commits.append(commit)
        self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        head = {
            "version": VERSION,
            "series": self.series.name,
            "title": self.series.title,
            "seed": self.seed,
            "machine": _machine(),
            "commits": self._commits,
            "summary": self.summary(),
        }
        lines = ",\n".join(f"  {json.dumps(trial)}" for trial in self.trials)
        text = json.dumps(head, indent=1).removesuffix("\n}")
        draft = self._path.with_name(f".{self._path.name}.tmp")
        draft.write_text(f'{text},\n "trials": [\n{lines}\n ]\n}}\n', "utf-8")
        draft.replace(self._path)

    def summary(self) -> dict[str, Any]:
        """The figures of the table, and a few more."""
        spread = self.series.spread(self.trials)
        return {
            "trials": len(self.trials),
            "struck": sum(spread.values()),
            "wanted": self.series.total,
            "trials_with_problems": self.problems,
            "by_place": spread,
            **self._more(),
            "seconds": round(sum(trial["seconds"] for trial in self.trials)),
        }

    def _more(self) -> dict[str, Any]:
        """What only some series have: strikes by running pipeline, sums, and how long a stop took."""
        sums = Counter[str]()
        pipelines = Counter[str]()
        stops = [0.0]
        for trial in self.trials:
            sums.update({name: trial[name] for name in SUMMED if name in trial})
            for name in trial.get("pipelines", ()):
                pipelines[name] += len(trial["struck"])
            stops += [after or 0.0 for _, code, _, after in trial.get("attempts", ()) if code == STOPPED]
        more = {"by_pipeline": dict(sorted(pipelines.items())), **sums, "longest_stop_seconds": max(stops)}
        return {name: value for name, value in more.items() if value}


def table(files: Iterable[ResultFile]) -> str:
    """One line for each series."""
    rows = [("series", "what is struck", "trials", "struck", "at each place", "with problems", "minutes")]
    for file in files:
        summary = file.summary()
        counts = summary["by_place"].values()
        places = f"{min(counts)}-{max(counts)} at {len(counts)}" if counts else ""
        rows.append(
            (
                file.series.name,
                file.series.title,
                str(summary["trials"]),
                f"{summary['struck']} of {summary['wanted']}",
                places,
                str(summary["trials_with_problems"]),
                f"{summary['seconds'] / 60:.1f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _machine() -> dict[str, Any]:
    return {"python": platform.python_version(), "system": platform.system(), "cores": os.cpu_count()}


def _commit() -> str:
    """The commit that is run, with a plus when the tree differs from it; "" outside of a repository."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "engine", "connectors", "tests")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{found}{'+' if changed else ''}"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
