"""Likely mistakes, each with the command that shows it. docs/errors.md is made of what they print:

python -m tests.unit.cli.mistakes
"""
# ruff: noqa: E501 - a line is a mistake

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.cli import main

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "errors.md"

BASE = """\
version: 1
connections:
  warehouse: {url: "http://127.0.0.1:9"}
  model: {base_url: "http://127.0.0.1:9/v1", api_key: none, model: m}
pipelines:
  orders:
    params: {low: 1}
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      large: {filter: "n >= 1"}
      save: {sink: jsonl, with: {path: out.jsonl}}
"""
MODULE = """\
import engine


@engine.transform
def broken(record: dict) -> dict:
    return {"n": record["m"]}


def plain(record):
    return record
"""


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Args:
        title: what somebody did.
        change: texts of the file and what stands in their place; a single text is the whole file.
        command: the arguments.
        files: other files in the folder.
    """

    title: str
    change: tuple[str, ...] | str = ()
    command: Sequence[str] = ("validate",)
    files: dict[str, str] = field(default_factory=dict)
    section: str = ""

    def file(self) -> str:
        if isinstance(self.change, str):
            return self.change
        text = BASE
        for before, after in zip(self.change[::2], self.change[1::2], strict=True):
            assert before in text, before
            text = text.replace(before, after, 1)
        return text


RUN = ("run", "--log-format", "none", "--progress", "none", "--quiet")

MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "The file": (
        Mistake("The file does not exist", command=("validate", "pipeline.yaml")),
        Mistake("The file is empty", "\n"),
        Mistake("A line is indented with a tab", ("    nodes:", "\tnodes:")),
        Mistake("A bracket is not closed", ("{path: in.jsonl}}", "{path: in.jsonl}")),
        Mistake("A key occurs twice", ("      save:", "      read:")),
        Mistake("The version belongs to a newer engine", ("version: 1", "version: 2")),
        Mistake("A top-level key is misspelt", ("pipelines:", "piplines:")),
        Mistake("The date does not exist", ('"n >= 1"', '{where: "n >= 1", reason: 2026-02-30}')),
        Mistake("A Windows path in double quotes", ("path: in.jsonl", 'path: "C:\\data\\in.jsonl"')),
    ),
    "Nodes": (
        Mistake("A source is misspelt", ("source: jsonl", "source: jsnol")),
        Mistake("The kind is misspelt", ("source: jsonl", "sauce: jsonl")),
        Mistake("A sink is used as a source", ("source: jsonl", "source: duckdb_append")),
        Mistake("A parameter is misspelt", ("path: in.jsonl", "pth: in.jsonl")),
        Mistake("A parameter has the wrong type", ("{path: in.jsonl}", "{path: in.jsonl, page_records: many}")),
        Mistake("A parameter is outside `with`", ("with: {path: in.jsonl}", "path: in.jsonl")),
        Mistake("A type that does not exist", ("source: jsonl, with: {path: in.jsonl}", "source: http, with: {connection: warehouse, paging: {type: next}}")),
        Mistake("An address is given twice", ("source: jsonl, with: {path: in.jsonl}", 'source: http, with: {connection: warehouse, path: "http://127.0.0.1:9/orders"}')),
        Mistake("`input` names no node", ("save: {sink: jsonl,", "save: {sink: jsonl, input: lrage,")),
        Mistake("Nothing takes a transform's records", ("save: {sink: jsonl,", "save: {sink: jsonl, input: read,")),
        Mistake("Two nodes read the standard input", ("source: jsonl, with: {path: in.jsonl}}", "source: stdin}"),
                ('large: {filter: "n >= 1"}', 'more: {source: stdin}\n      large: {filter: "n >= 1", input: [read, more]}')),
        Mistake("The output replaces the input", ("path: out.jsonl", "path: in.jsonl, mode: replace")),
        Mistake("Nodes form a circle", ('large: {filter: "n >= 1"}', 'large: {filter: "n >= 1", input: save}')),
        Mistake("A node has two components", ("source: jsonl", "source: jsonl, sink: jsonl")),
        Mistake("A pipeline without a sink", ("      save: {sink: jsonl, with: {path: out.jsonl}}\n", "")),
        Mistake("A retry has no number", ("save: {sink: jsonl,", "save: {sink: jsonl, retry: {attempts: often},")),
        Mistake("A memory size has an unknown unit", ("    params:", "    memory: 5 apples\n    params:")),
        Mistake("A duration has an unknown unit", ("    params:", "    timeout: soon\n    params:")),
    ),
    "Expressions": (
        Mistake("An expression has a syntax error", ("n >= 1", "n >=")),
        Mistake("`=` instead of `==`", ("n >= 1", "n = 1")),
        Mistake("An unknown function", ("n >= 1", "size(n) > 1")),
        Mistake("An attribute of a value", ("n >= 1", "n.real > 1")),
    ),
    "Parameters and the environment": (
        Mistake("A variable is not set", ("path: in.jsonl", 'path: "${ORDERS_FILE}"')),
        Mistake("A run parameter is misspelt in the file", ("path: in.jsonl", 'path: "${params.lwo}"')),
        Mistake("A run parameter is misspelt on the command line", command=("validate", "--param", "orders.lwo=2")),
        Mistake("A run parameter has the wrong type", command=("validate", "--param", "orders.low=few")),
        Mistake("`--param` without the pipeline", command=("validate", "--param", "low=2")),
        Mistake("`--set` names an unknown key", command=("validate", "--set", "pipelines.orders.memry=1MiB")),
        Mistake("`--only` is misspelt", command=("validate", "--only", "oders")),
    ),
    "Connections": (
        Mistake(
            "A connection is misspelt",
            ("save: {sink: jsonl, with: {path: out.jsonl}}", "save: {sink: ingest, with: {connection: werehouse, model: BlobSource}}"),
        ),
        Mistake("A connection has a misspelt field", ('{url: "http://127.0.0.1:9"}', '{url: "http://127.0.0.1:9", tokn: x}'),
                ("validate", "--set", "pipelines.orders.nodes.save={sink: ingest, with: {connection: warehouse, model: BlobSource}}")),
        Mistake("An address is not a URL", ('url: "http://127.0.0.1:9"', "url: localhost 4200"),
                ("validate", "--set", "pipelines.orders.nodes.save={sink: ingest, with: {connection: warehouse, model: BlobSource}}")),
        Mistake("No connection fits", ("save: {sink: jsonl, with: {path: out.jsonl}}", "save: {sink: ingest, with: {model: BlobSource}}",
                '  warehouse: {url: "http://127.0.0.1:9"}\n', "")),
    ),
    "Your own components": (
        Mistake("The module does not exist", ('{filter: "n >= 1"}', '{transform: "setps:broken"}')),
        Mistake("The function does not exist", ('{filter: "n >= 1"}', '{transform: "steps:brocken"}')),
        Mistake("The function is not decorated", ('{filter: "n >= 1"}', '{transform: "steps:plain"}')),
        Mistake("The module has a syntax error", ('{filter: "n >= 1"}', '{transform: "bad:step"}'), files={"bad.py": "def step(:\n"}),
        Mistake("A transform forgets to return", ('{filter: "n >= 1"}', '{transform: "forgetful:step"}'),
                files={"forgetful.py": "import engine\n\n\n@engine.transform\ndef step(record: dict):\n    record | {'n': 1}\n"}),
        Mistake("A source blocks the event loop", ("source: jsonl, with: {path: in.jsonl}", 'source: "plain:rows"'),
                files={"plain.py": "import engine\n\n\n@engine.source\ndef rows():\n    yield {'n': 1}\n"}),
        Mistake("The function raises a KeyError", ('{filter: "n >= 1"}', '{transform: "steps:broken"}'), RUN),
    ),
    "Running": (
        Mistake("The input does not exist", ("path: in.jsonl", "path: input.jsonl"), RUN),
        Mistake("The output's folder is a file", ("path: out.jsonl", "path: in.jsonl/out.jsonl"), RUN),
        Mistake("Too many records die", ("    params:", "    dead_letters: {max: 0}\n    params:"), RUN,
                {"in.jsonl": '{"n": 1}\nno JSON\n'}),
        Mistake("Required input is missing", ("    params:", "    min_records: 10\n    params:"), RUN),
        Mistake("No service is listening", ("save: {sink: jsonl, with: {path: out.jsonl}}",
                "save: {sink: ingest, with: {connection: warehouse, model: BlobSource, validation: never}, retry: {attempts: 1}}",
                "    params:", "    outage_limit: 0s\n    params:"), RUN),
        Mistake("The state directory is a file", command=("run", "--state-dir", "steps.py", "--quiet", "--log-format", "none")),
        Mistake("There is nothing to resume", command=("run", "--resume", "orders-20260101T000000-1234", "--quiet", "--log-format", "none")),
        Mistake("An option is misspelt", command=("run", "--limt", "5")),
        Mistake("A verb is misspelt", command=("rnu",)),
        Mistake("`--limit` is not a number", command=("run", "--limit", "ten")),
        Mistake("The folder of the report does not exist", command=("run", "--report", "reports/today.json")),
    ),
}  # fmt: skip


def printed(mistake: Mistake) -> tuple[int, str]:
    """The exit code and everything that was printed, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, _inside(Path(folder)):
        files = {"in.jsonl": '{"n": 1}\n{"n": 2}\n', "steps.py": MODULE, **mistake.files}
        for name, text in files.items():
            Path(name).write_text(text)
        Path("pipelines.yaml").write_text(mistake.file())
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(list(mistake.command))
        text = (
            out.getvalue()
            .replace(os.path.realpath(folder), "/home/me/orders")
            .replace(folder, "/home/me/orders")
        )
        text = re.sub(r"for \d+ s;", "for 5 s;", text)
        return code, re.sub(r"orders-\d{8}T\d{6}-[0-9a-f]{12}", "orders-20260131T120000-4f2a1b6c7d8e", text)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before, path = os.getcwd(), list(sys.path)
    _forget_modules()  # other tests have modules of these names too
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(before)
        sys.path[:] = path
        _forget_modules()


def _forget_modules() -> None:
    for name in ("steps", "bad", "forgetful", "plain"):
        sys.modules.pop(name, None)


def page() -> str:
    """docs/errors.md."""
    lines = [
        "# Errors",
        "",
        "Likely mistakes, and what the command says about them. Tests make each of them and write this",
        "page: a message names the place, what is wrong, and what to do. All problems of a file are",
        "reported at once. `python -m engine explain CODE` explains an exit code or a type of error.",
        "",
    ]
    for section, mistakes in MISTAKES.items():
        lines += [f"## {section}", ""]
        for mistake in mistakes:
            code, text = printed(mistake)
            command = " ".join(part if " " not in part else f"'{part}'" for part in mistake.command)
            lines += [f"### {mistake.title}", "", f"`{command}` exits with {code}:", "", "```text"]
            lines += [*text.rstrip("\n").split("\n"), "```", ""]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
