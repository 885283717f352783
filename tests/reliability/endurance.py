"""`python -m tests.reliability.endurance --minutes 30`: full load over faulty wires; does memory grow?

The simulated pipelines run without an end and the documents round after round, in one process, while one
exchange in a hundred goes wrong between it and S3, the model and the service. What the process needs is
sampled; the first third is warm-up, and the last third is compared with the one before. At the end every
record that the ledger counts as written has to be in the warehouse.

Exit codes: 0 flat and nothing lost or doubled, 1 something grew, was lost or failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.reliability.harness.children import ROOT, Child, sandboxed, serving
from tests.reliability.harness.enduring import Sample
from tests.reliability.harness.proxy import Faults, proxied
from tests.reliability.harness.trial import WIRES
from tests.reliability.harness.workload import environment, make_samples

__all__ = ["LIMITS", "Course", "courses", "main"]

PROGRAM = ("-m", "tests.reliability.harness.enduring")
ROUTES = {"blobs": "getBlobs", "logs": "getLogs", "events": "getEvents"}
FLAT, GREW = 0, 1
PATIENCE = 300.0
SHARE = 0.05
MEBIBYTE = 1 << 20

LIMITS = {"rss": 16 * MEBIBYTE, "descriptors": 8, "threads": 4, "tasks": 16, "state": 2 * MEBIBYTE}
"""What may be added to each from one third to the next, if that is more than 5 %: noise of one moment."""


@dataclass(frozen=True, slots=True)
class Course:
    """How one figure went: its mean over the second third and the last, and its highest value."""

    name: str
    before: float
    after: float
    highest: float

    @property
    def grew(self) -> bool:
        """Whether it grew by more than 5 %, and by more than noise."""
        return self.after - self.before > max(SHARE * self.before, LIMITS[self.name])

    @property
    def line(self) -> str:
        """A row of the table."""
        unit, name = (MEBIBYTE, f"{self.name} (MiB)") if self.name in ("rss", "state") else (1, self.name)
        figures = "".join(f"{value / unit:12,.1f}" for value in (self.before, self.after, self.highest))
        return f"{name:14}{figures}  {'grew' if self.grew else 'flat'}"


def courses(samples: Sequence[Sample]) -> list[Course]:
    """How each figure went over these samples, of which there are at least three."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    found = []
    for name in LIMITS:
        of = [[float(getattr(one, name)) for one in part] for part in (middle, last, samples)]
        found.append(Course(name, fmean(of[0]), fmean(of[1]), max(of[2])))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Work for `--minutes`, print the table, and return 0 when all is flat and nothing was lost."""
    options = _parser().parse_args(argv)
    seconds = options.minutes * 60
    every = min(5.0, max(seconds / 60, 0.2))
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        samples, end, present, wires = _worked(Path(folder), seconds, every, options)
    report: dict[str, Any] = {
        "minutes": options.minutes,
        "probability": options.probability,
        "seed": options.seed,
        "records": samples[-1].records,
        "records_per_second": round(samples[-1].records / max(samples[-1].seconds, 1)),
        "wires": wires,
        **end,
        "present": present,
        "problems": _problems(samples, end, present),
        "samples": [{field.name: getattr(one, field.name) for field in fields(one)} for one in samples],
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    _show(report, courses(samples))
    return GREW if report["problems"] else FLAT


def _worked(
    folder: Path, seconds: float, every: float, options: argparse.Namespace
) -> tuple[list[Sample], dict[str, Any], dict[str, int], dict[str, Any]]:
    """The samples, what the engine says at its end, the rows in the warehouse, and what the wires did."""
    with ExitStack() as stack:
        samples = make_samples(folder / "samples", options.documents)
        addresses = stack.enter_context(sandboxed("s3,llm", folder / "lake", samples, folder / "sandbox"))
        service = stack.enter_context(serving(folder / "service", folder / "serve"))
        world = environment(addresses, service.url)
        proxies = {}
        for name, variable in WIRES.items():
            faults = Faults(options.probability, seed=f"{options.seed}/{name}")
            proxies[name] = stack.enter_context(proxied(world[variable], faults))
            world[variable] = proxies[name].url + urlsplit(world[variable]).path
        arguments = [str(ROOT / "pipelines.yaml"), str(folder / "state"), str(seconds), str(every)]
        child = Child(arguments, folder / "engine", world, PROGRAM)
        until = time.monotonic() + seconds + PATIENCE
        while child.wait(1.0) is None and time.monotonic() < until:
            pass
        if child.process.poll() is None:
            child.kill()
            raise TimeoutError(f"the engine did not end within {PATIENCE:g} s of being told to")
        child.close()
        *lines, last = [json.loads(line) for line in child.output.splitlines()] or [None]
        if child.process.returncode or not last or "delivered" not in last:
            raise RuntimeError(f"the engine ended with {child.process.returncode}: {child.errors}")
        wires = {
            name: {"exchanges": proxy.exchanges, "faults": proxy.done.total()}
            for name, proxy in proxies.items()
        }
        return [Sample(**line) for line in lines], last, _present(service.url), wires


def _present(url: str) -> dict[str, int]:
    """The rows in the warehouse, by pipeline."""
    found = {}
    for pipeline, route in ROUTES.items():
        answer = httpx.get(f"{url}/consumption/{route}", params={"limit": "1"}, timeout=300)
        found[pipeline] = int(answer.json()["total"])
    return found


def _problems(samples: Sequence[Sample], end: Mapping[str, Any], present: Mapping[str, int]) -> list[str]:
    grown = [one for one in courses(samples) if one.grew]
    problems = [f"{one.name} grew from {one.before:,.0f} to {one.after:,.0f}" for one in grown]
    for pipeline, rows in present.items():
        written = end["delivered"].get(pipeline, 0)
        if rows != written:
            problems.append(f"{pipeline}: {written:,} written, {rows:,} in the warehouse")
    problems += end["errors"]
    failed = {how: count for how, count in end["rounds"].items() if how != "completed"}
    problems += [f"{count} rounds of documents: {how}" for how, count in failed.items()]
    return problems


def _show(report: Mapping[str, Any], found: Sequence[Course]) -> None:
    rounds = sum(report["rounds"].values())
    exchanges = sum(wire["exchanges"] for wire in report["wires"].values())
    faults = sum(wire["faults"] for wire in report["wires"].values())
    work = f"{report['records']:,} records in {report['minutes']:g} minutes"
    pace = f"{report['records_per_second']:,} a second"
    lines = [
        f"{work} ({pace}), {rounds} rounds of documents, {faults:,} of {exchanges:,} exchanges went wrong",
        f"{'':14}{'2nd third':>12}{'last third':>12}{'highest':>12}",
        *(one.line for one in found),
        *(f"problem: {text}" for text in report["problems"]),
    ]
    if not report["problems"]:
        lines.append("flat; nothing lost, nothing twice")
    sys.stdout.write("\n".join(lines) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.endurance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=30.0, help="how long to work (30)")
    parser.add_argument("--probability", type=float, default=0.01, help="of a fault in an exchange (0.01)")
    parser.add_argument("--documents", type=int, default=200, help="short documents in a round (200)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write figures and samples there, as JSON")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
