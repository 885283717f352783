"""Find and read files of cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from engine.config.problems import Problems
from engine.config.validation import validate
from engine.config.values import Place
from engine.config.yaml_document import parse_bytes
from engine.errors import ConfigError, Problem
from engine.testing.cases.model import CaseSection, CasesSection, FileRef, Records

SUFFIXES = ("_test.yaml", "_test.yml")
SKIPPED = frozenset({"node_modules", "build", "dist", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Args:
        path: its file.
        place: its place in the file.
        pipelines: the pipeline file.
    """

    name: str
    path: Path
    place: Place
    pipelines: Path
    section: CaseSection

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return f"{self.path}:{self.place.line}"


def case_files(given: Path) -> list[Path]:
    """Return the files of cases that belong to a path, sorted.

    Args:
        given: a file of cases; a pipeline file, for its cases; or a folder, for all below it.

    Raises:
        ConfigError: there are none.
    """
    if given.is_dir():
        found = sorted(_below(given))
    elif given.name.endswith(SUFFIXES):
        found = [given]
    else:
        beside = sorted(path for path in given.absolute().parent.glob("*") if path.name.endswith(SUFFIXES))
        found = [given.parent / path.name for path in beside if _tests(path).resolve() == given.resolve()]
    if not found:
        example = (
            given / "pipelines_test.yaml" if given.is_dir() else given.with_name(f"{given.stem}_test.yaml")
        )
        raise ConfigError(
            [
                Problem(
                    "no cases to run", file=str(given), hint=f"write some into {example}; see docs/testing.md"
                )
            ]
        )
    return found


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in SKIPPED:
            yield from _below(path)
        elif path.name.endswith(SUFFIXES):
            yield path


def _tests(path: Path) -> Path:
    """Return the pipeline file of a file of cases; for an invalid file, the one with the same name."""
    try:
        root = parse_bytes(path.read_bytes(), str(path))
    except (ConfigError, OSError):
        root = None
    named = root.get("file") if root is not None else None
    name = named.data if named is not None and isinstance(named.data, str) else ""
    return path.parent / (name or _namesake(path))


def _namesake(path: Path) -> str:
    return path.name.replace("_test.", ".")


def load_cases(path: Path | str) -> list[Case]:
    """Return the cases of a file.

    Raises:
        ConfigError: lists every problem of the file.
    """
    path = Path(path)
    try:
        root = parse_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError([Problem(f"cannot read: {error.strerror or error}", file=str(path))]) from None
    problems = Problems()
    section = validate(CasesSection, root, problems) if root is not None else None
    if root is None:
        raise ConfigError([Problem("the file is empty", file=str(path), hint="write tests: {name: {…}}")])
    if section is None or problems:
        raise ConfigError(problems.all())
    tests = root.get("tests")
    assert tests is not None
    pipelines = path.parent / (section.file or _namesake(path))
    return [Case(name, path, tests.key_place(name), pipelines, one) for name, one in section.tests.items()]


def records_of(records: Records, case: Case) -> list[Any]:
    """Return the given records, or those of the named file.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not isinstance(records, FileRef):
        return records
    path = case.path.parent / records.file
    try:
        return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, orjson.JSONDecodeError) as error:
        raise ConfigError([case.place.problem(f"cannot read {path}: {error}")]) from None
