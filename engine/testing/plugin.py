"""A pytest plugin that collects files of cases (`*_test.yaml`) along with tests in Python.

It is installed with the package and active by default; `-p no:odw_engine` disables it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from engine.testing.cases import Case

SUFFIXES = ("_test.yaml", "_test.yml")


class CaseFailedError(Exception):
    """A case failed; the message has the differences."""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CaseFile | None:
    """Collect files of cases; files of other tools with such names have no `tests:`."""
    if not file_path.name.endswith(SUFFIXES):
        return None
    with file_path.open(encoding="utf-8", errors="replace") as lines:
        if not any(line.startswith("tests:") for line in lines):
            return None
    return CaseFile.from_parent(parent, path=file_path)


class CaseFile(pytest.File):
    """A file of cases."""

    def collect(self) -> Iterator[CaseItem]:
        from engine.errors import ConfigError
        from engine.registry import find_modules_beside
        from engine.testing.cases import load_cases

        try:
            cases = load_cases(self.path)
        except ConfigError as error:
            raise self.CollectError(str(error)) from None
        find_modules_beside(str(self.path))
        for case in cases:
            yield CaseItem.from_parent(self, name=case.name, case=case)


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: Case, **options: Any) -> None:
        super().__init__(**options)
        self.case = case

    def runtest(self) -> None:
        import anyio

        from engine.testing.cases import run_case

        result = anyio.run(run_case, self.case)
        if not result.passed:
            raise CaseFailedError(result.text())

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str | Any:
        from engine.errors import ConfigError

        if isinstance(excinfo.value, CaseFailedError | ConfigError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.case.place.line - 1, self.name
