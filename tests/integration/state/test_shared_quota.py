"""Two processes that keep to one quota through the state store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import engine

CHILD = Path(__file__).with_name("calling_child.py")
ROOT = Path(engine.__file__).parent.parent
BURST, RATE = 200, 20  # of 1,200 requests a minute


@pytest.mark.series
def test_two_processes_send_no_more_than_the_quota_together(where: str) -> None:
    """Together they want 20 calls more than go out at once; each alone would not have to wait."""
    children = [
        subprocess.Popen(
            [sys.executable, str(CHILD), where, "110"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]
    outputs = [child.communicate(timeout=300)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    began, ended = min(float(one[0]) for one in outputs), max(float(one[1]) for one in outputs)
    assert sum(int(one[2]) for one in outputs) <= BURST + RATE * (ended - began) + 1
