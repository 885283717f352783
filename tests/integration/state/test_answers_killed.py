"""Processes that are killed while many answers are being stored together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import engine
from engine.state import JournalFilter, open_store

CHILD = Path(__file__).with_name("answering_child.py")
ROOT = Path(engine.__file__).parent.parent


def kill_after(where: str, first: int, lines: int) -> set[str]:
    """SIGKILL a child once it has passed on so many answers; gives the numbers of all that it had."""
    with subprocess.Popen(
        [sys.executable, str(CHILD), where, str(first)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        passed_on = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        passed_on += child.stdout
        child.wait(300)
    assert child.returncode == -signal.SIGKILL
    return {line.strip() for line in passed_on if line.endswith("\n")}


async def test_a_kill_loses_no_answer_that_was_passed_on_and_tears_none(where: str) -> None:
    passed_on: set[str] = set()
    for first, lines in ((0, 1), (100_000, 30), (200_000, 100)):
        passed_on |= kill_after(where, first, lines)
    assert len(passed_on) >= 131
    async with open_store(where) as store:
        stored = [entry.key.split("/") for entry in await store.list_journal(JournalFilter())]
    parts: dict[str, list[str]] = {}
    for number, part in stored:
        parts.setdefault(number, []).append(part)
    assert passed_on <= parts.keys()
    assert all(sorted(of_one) == ["a", "b", "c"] for of_one in parts.values())
