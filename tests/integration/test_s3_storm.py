"""Reading with every fault of a server, small; `python -m tests.integration.s3_storm` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.s3_storm import FAULTS, run_storm
from tests.series import few


@pytest.mark.slow
@pytest.mark.parametrize("kind", few(["document", "jsonl"], 1))
async def test_no_fault_loses_doubles_or_changes_a_record(minio: str, tmp_path: Path, kind: str) -> None:
    outcome = await run_storm(minio, tmp_path, objects=200, share=0.03, never=5, kind=kind)

    assert outcome.problems == []
    assert set(outcome.struck) == set(FAULTS), "each has struck"
    assert len(outcome.never) == 5
