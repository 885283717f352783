"""The main job and its documents are found from any folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.sandbox.packaged import SAMPLES, main_job

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_main_job_is_written_to_standard_output(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine.sandbox.packaged"], cwd=tmp_path, capture_output=True, check=True
    )

    assert done.stdout == main_job() == (ROOT / "pipelines.yaml").read_bytes()


def test_the_samples_have_documents_and_transcripts() -> None:
    assert (SAMPLES / "memos").is_dir()
    assert (SAMPLES / "transcripts.json").is_file()
