"""Start-up time of whole processes, above bare Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import figures
from benchmarks.engine_commands import PIPELINES, engine, needs
from benchmarks.machine import ROOT
from benchmarks.model import Arm, Benchmark, Command, Completed, Goal, Launch, Scale, Work

BARE = "bare python"
FIRST = {"id": "first", "value": 1}
PIPELINE = """\
version: 1
pipelines:
  copy:
    nodes:
      read: {{source: jsonl, with: {{path: {source}}}}}
      write: {{sink: stdout}}
"""


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``startup_commands`` (to the process's end), ``startup_first_record`` (to its first output)."""
    return [
        Benchmark(
            name="startup_commands",
            description="whole processes, warm file cache",
            arms=[
                Arm(BARE, command=process([sys.executable, "-c", "pass"]), checked=False),
                Arm(
                    "--help",
                    command=process(engine("--help")),
                    goals=[Goal("difference", "<=", 0.080)],
                    checked=False,
                    unavailable=needs("--help", pipelines=False),
                ),
                Arm(
                    "validate",
                    command=process(engine("validate", str(PIPELINES))),
                    goals=[Goal(figures.WALL, "<=", 0.7)],
                    checked=False,
                    unavailable=needs("validate"),
                ),
            ],
            reference=BARE,
            comparison="difference",
            pairs=20,
        ),
        Benchmark(
            name="startup_first_record",
            description="from the start of the process to the first record on standard output",
            arms=[
                Arm(BARE, command=printing(FIRST)),
                Arm(
                    "jsonl to stdout",
                    command=copying(scale.pick(1_000, 10)),
                    goals=[Goal(figures.FIRST_OUTPUT, "<=", 0.85)],
                    unavailable=needs("run", pipelines=False),
                ),
            ],
            reference=BARE,
            metric=figures.FIRST_OUTPUT,
            comparison="difference",
            pairs=20,
        ),
    ]


def process(argv: Sequence[str]) -> Command:
    """A command that only has to succeed."""

    @contextmanager
    def prepare(_: Path) -> Iterator[Launch]:
        yield Launch(argv, work=lambda _: Work(0, None), cwd=ROOT)

    return prepare


def printing(record: dict[str, object]) -> Command:
    """Bare Python that prints one record as JSON."""

    @contextmanager
    def prepare(_: Path) -> Iterator[Launch]:
        yield Launch([sys.executable, "-c", f"print({json.dumps(record)!r})"], work=first_record)

    return prepare


def copying(records: int) -> Command:
    """The engine copies a JSON-lines file to standard output."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        source, pipelines = directory / "records.jsonl", directory / "copy.yaml"
        with source.open("w", encoding="utf-8") as lines:
            lines.write(json.dumps(FIRST) + "\n")
            for number in range(1, records):
                lines.write(json.dumps({"id": f"r{number}", "value": number}) + "\n")
        pipelines.write_text(PIPELINE.format(source=json.dumps(str(source))), encoding="utf-8")
        argv = engine("run", str(pipelines), "--state-dir", str(directory / "state"))
        yield Launch(argv, work=first_record, cwd=ROOT)

    return prepare


def first_record(completed: Completed) -> Work:
    """The first line of output, as the checksum."""
    line = completed.stdout.partition(b"\n")[0]
    return Work(0, json.dumps(json.loads(line), sort_keys=True))
