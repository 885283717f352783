"""Run the test cases of a pipeline file: given records, expected records, dead letters and counts.

Cases are in NAME_test.yaml. Sources yield the given records, sinks only collect, and transforms with a
connection return the given answers; everything else runs as in production.

Exit codes: 0 all passed, 1 some failed, 2 a file is not valid.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.cli.options import TestOptions

if TYPE_CHECKING:
    from engine.testing.cases import CaseResult


def execute(options: TestOptions) -> int:
    """Run the cases and print the differences."""
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: _run(options))


async def _run(options: TestOptions) -> int:
    from pathlib import Path

    from engine.cli.display.terminal import printable
    from engine.config.problems import unknown
    from engine.errors import ConfigError
    from engine.registry import find_modules_beside
    from engine.testing.cases import case_files, load_cases, run_case, update_file

    files = case_files(Path(options.file))
    cases = [case for path in files for case in load_cases(path)]
    names = [case.name for case in cases]
    for name in options.only:
        if name not in names:
            raise ConfigError(unknown("case", name, names))
    results: list[CaseResult] = []
    for case in cases:
        if not options.only or case.name in options.only:
            find_modules_beside(str(case.pipelines))
            results.append(await run_case(case))
            if not options.json:
                sys.stdout.write(printable(results[-1].text()) + "\n")
    if options.update:
        for path in files:
            if updated := update_file(path, results):
                sys.stdout.write(f"{path}: {updated} updated; review the changes before you keep them\n")
        return 0
    failed = sum(not result.passed for result in results)
    sys.stdout.write(
        _as_json(results) if options.json else f"{len(results) - failed} passed, {failed} failed\n"
    )
    return 1 if failed else 0


def _as_json(results: list[CaseResult]) -> str:
    import json

    document = {
        "passed": all(result.passed for result in results),
        "cases": [
            {
                "name": result.case.name,
                "file": str(result.case.path),
                "line": result.case.place.line,
                "passed": result.passed,
                "differences": result.differences,
                "counts": result.counts,
            }
            for result in results
        ],
    }
    return json.dumps(document, indent=2) + "\n"
