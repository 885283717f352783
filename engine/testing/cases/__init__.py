"""Test cases of a pipeline in YAML: given input and expected output.

::

    from engine.testing.cases import load_cases, run_case

    for case in load_cases("pipelines_test.yaml"):
        result = await run_case(case)
        assert result.passed, result.text()
"""

from __future__ import annotations

from engine.testing.cases.load import Case, case_files, load_cases
from engine.testing.cases.run import CaseResult, run_case
from engine.testing.cases.update import update_file

__all__ = ["Case", "CaseResult", "case_files", "load_cases", "run_case", "update_file"]
