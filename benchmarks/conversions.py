"""Convert files of orders to JSON lines: by a pipeline in another process, and by a plain loop.

Run as `python -m benchmarks.conversions csv|jsonl FROM TO`, it is the plain loop.
"""

from __future__ import annotations

import atexit
import csv
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from benchmarks.blob_runs import check, read_report
from benchmarks.engine_commands import engine
from benchmarks.machine import ROOT
from benchmarks.model import Command, Completed, Launch, Work

LINES_AT_ONCE = 256 * 1024
"""Bytes of lines that the plain loop holds."""

FIELDS = ("id", "name", "amount", "day", "active")


@dataclass
class Orders:
    """A number of orders, as CSV and as JSON lines; each file is created on first use."""

    size: int

    @cached_property
    def folder(self) -> Path:
        """A folder that ends with this process."""
        made = Path(tempfile.mkdtemp(prefix="odw-formats-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made

    @cached_property
    def csv(self) -> Path:
        """With a header."""
        path = self.folder / "orders.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(FIELDS)
            writer.writerows([*row[:4], "true" if row[4] else "false"] for row in self._rows())
        return path

    @cached_property
    def jsonl(self) -> Path:
        """The same records."""
        path = self.folder / "orders.jsonl"
        with path.open("wb") as file:
            file.writelines(orjson.dumps(dict(zip(FIELDS, row, strict=True))) + b"\n" for row in self._rows())
        return path

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        for at in range(self.size):
            day = f"2026-01-{1 + at % 28:02}"
            yield at, f"customer {at % 1000}", at * 7919 % 100_000 / 100, day, at % 3 == 0

    def work(self, path: Path, rate: float | None = None) -> Work:
        """Return the work of a file of converted orders; the checksum is the same for any complete file."""
        found = ids = 0
        with path.open("rb") as file:
            for line in file:
                found, ids = found + 1, ids + orjson.loads(line)["id"]
        if (found, ids) != (self.size, self.size * (self.size - 1) // 2):
            raise ValueError(f"{found:,} of {self.size:,} orders arrived")
        return Work(self.size, "all orders", {} if rate is None else {"rate": rate})


def by_pipeline(orders: Orders, kind: str) -> Command:
    """The source of this kind (`csv` or `jsonl`) into the sink `jsonl`; `rate` excludes start-up."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        out, report, file = directory / "out.jsonl", directory / "report.json", directory / "pipelines.yaml"
        source: dict[str, Any] = {"source": "jsonl", "with": {"path": str(orders.jsonl)}}
        if kind == "csv":
            source = {"source": "files", "with": {"pattern": str(orders.csv), "format": "csv"}}
        write = {"sink": "jsonl", "input": "read", "with": {"path": str(out)}}
        # JSON is YAML
        file.write_text(json.dumps({"pipelines": {"convert": {"nodes": {"read": source, "write": write}}}}))

        def work(_: Completed) -> Work:
            found = read_report(report, "convert")
            check(found, orders.size)
            return orders.work(out, orders.size / found["seconds"])

        arguments = ("run", str(file), "--report", str(report), "--state-dir", str(directory / "state"))
        yield Launch(argv=engine(*arguments), work=work, cwd=ROOT)

    return prepare


def by_loop(orders: Orders, kind: str) -> Command:
    """A plain loop in another process."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        out = directory / "out.jsonl"
        path = orders.csv if kind == "csv" else orders.jsonl
        argv = [sys.executable, "-m", "benchmarks.conversions", kind, str(path), str(out)]
        yield Launch(argv=argv, work=lambda _: orders.work(out), cwd=ROOT)

    return prepare


def convert_lines(source: Path, target: Path) -> None:
    """Parse and dump every line."""
    dumps, loads, option = orjson.dumps, orjson.loads, orjson.OPT_APPEND_NEWLINE
    with source.open("rb") as file, target.open("wb") as out:
        while lines := file.readlines(LINES_AT_ONCE):
            out.write(b"".join([dumps(loads(line), None, option) for line in lines]))


def convert_rows(source: Path, target: Path) -> None:
    """Convert every row to a record with the types of its columns, and dump it."""
    with source.open(newline="") as file, target.open("wb") as out:
        for row in csv.DictReader(file):
            record: dict[str, Any] = dict(row)
            record["id"], record["amount"] = int(record["id"]), float(record["amount"])
            record["active"] = record["active"] == "true"
            out.write(orjson.dumps(record, None, orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    convert: dict[str, Callable[[Path, Path], None]] = {"csv": convert_rows, "jsonl": convert_lines}
    convert[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
