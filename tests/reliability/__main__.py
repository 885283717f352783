"""`python -m tests.reliability`: the long series of kills, written to a file as it goes.

    python -m tests.reliability --kills 200 --seed 1 --out benchmarks/results/reliability.json

A series is fixed by its seed. It goes on where the file ends, so it may be run in pieces (`--minutes`).
Exit code 1 when a trial has found a problem.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.reliability.harness.blows import Plan, drawn
from tests.reliability.harness.trial import Lab, Outcome, laboratory

__all__ = ["main"]

VERSION = 1

Document = dict[str, Any]
"""The result file, as JSON."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the series; 0 when nothing was lost or doubled."""
    options = _arguments(argv)
    document = _begun(options.out, options.seed)
    until = time.monotonic() + options.minutes * 60
    # files of trials with problems stay there to be looked at
    folder = Path(tempfile.mkdtemp(prefix="reliability-"))
    with laboratory(folder) as lab:
        while document["summary"]["kills"] < options.kills and time.monotonic() < until:
            plan = drawn(options.seed, len(document["trials"]), service=options.service)
            _one(lab, plan, document, options.out)
    failed = document["summary"]["trials_with_problems"]
    if failed:
        sys.stdout.write(f"{failed} trials found problems; the files of this piece are in {folder}\n")
    else:
        shutil.rmtree(folder)
    return int(bool(failed))


def _one(lab: Lab, plan: Plan, document: Document, out: Path) -> None:
    outcome = lab.trial(plan)
    document["trials"].append(_entry(plan, outcome))
    document["summary"] = _summary(document["trials"])
    _write(out, document)
    kills = document["summary"]["kills"]
    verdict = "; ".join(outcome.problems) or "nothing lost, nothing twice"
    blows = " | ".join(attempt.blow or "undisturbed" for attempt in outcome.attempts)
    sys.stdout.write(f"{plan.name}  {kills} kills  {blows}: {verdict}\n")
    sys.stdout.flush()


def _entry(plan: Plan, outcome: Outcome) -> Document:
    entry = asdict(outcome)
    entry["kills"] = outcome.kills
    entry["struck"] = [attempt.blow for attempt in outcome.attempts if attempt.was_killed]
    entry["service_plan"] = [asdict(kill) for kill in plan.service]
    return entry


def _summary(trials: Sequence[Document]) -> Document:
    struck = Counter(_place(blow) for trial in trials for blow in trial["struck"])
    return {
        "trials": len(trials),
        "kills": sum(trial["kills"] for trial in trials),
        "service_kills": sum(trial["service_kills"] for trial in trials),
        "drains": sum(attempt["exit_code"] == 6 for trial in trials for attempt in trial["attempts"]),
        "trials_with_problems": sum(bool(trial["problems"]) for trial in trials),
        "kills_by_place": dict(sorted(struck.items())),
        "documents_paid_again": sum(trial["paid_again"] for trial in trials),
        "seconds": round(sum(trial["seconds"] for trial in trials), 1),
    }


def _place(blow: str) -> str:
    """`batch_read:2:TERM,draining:1` struck at `draining`; a timed blow at `any moment`."""
    return "any moment" if " after " in blow else blow.rpartition(",")[2].strip().partition(":")[0]


def _begun(path: Path, seed: int) -> Document:
    if not path.exists():
        machine = {"python": platform.python_version(), "system": platform.system(), "cores": os.cpu_count()}
        return {"version": VERSION, "seed": seed, "machine": machine, "summary": _summary([]), "trials": []}
    document: Document = json.loads(path.read_text("utf-8"))
    if document.get("version") != VERSION or document.get("seed") != seed:
        raise SystemExit(f"{path} holds another series; name another file, or move it away")
    return document


def _write(path: Path, document: Document) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    draft.replace(path)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=200, help="engine processes to kill, in all (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the series (1)")
    parser.add_argument("--out", type=Path, required=True, help="the result file; a series goes on in it")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so many, to go on later")
    parser.add_argument(
        "--service",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="kill the ingest service in every trial, or in none (in one of five)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
