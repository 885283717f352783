"""The stores with real processes: killed while they commit, and several sharing a store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import engine
from engine.contract.acks import Tally
from engine.state import DeadLetterFilter, open_store
from tests.servers.postgres import DURABLE, running

CHILD = Path(__file__).with_name("committing_child.py")
ROOT = Path(engine.__file__).parent.parent


@contextmanager
def committing(where: str, run_id: str, commits: int) -> Iterator[subprocess.Popen[str]]:
    """A child that is ready to begin."""
    with subprocess.Popen(
        [sys.executable, str(CHILD), where, run_id, str(commits)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def begin(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def kill_after(where: str, lines: int) -> int:
    """SIGKILL a child once it has reported `lines` commits; gives the last one it reported."""
    with committing(where, "r1", 0) as child:
        begin(child)
        assert child.stdout is not None
        for _ in range(lines):
            reported = child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        for line in child.stdout:  # what it had said before the signal came
            reported = line if line.endswith("\n") else reported
        child.wait(300)
        assert child.returncode == -signal.SIGKILL
    return int(reported)


@pytest.mark.slow
async def test_a_kill_loses_no_reported_commit_and_tears_none(where: str) -> None:
    reached = 0
    for kills, lines in enumerate((1, 7, 40), start=1):
        reported = kill_after(where, lines)
        async with open_store(where) as store:
            records, complete = await store.splits("r1", "extract")
            total = await store.tally("r1")
            (letter,) = await store.dead_letters(DeadLetterFilter(run_id="r1"))
        positions = {record.position for record in records}
        assert complete
        assert len(positions) == 1, "three splits of one commit differ"
        (position,) = positions
        # at most the commit it could not report any more is there as well
        assert reached + lines <= reported <= position <= reported + 1
        assert total == Tally(read=3 * position, written=3 * position)
        assert reported <= letter.record["n"] <= position
        assert position - kills <= letter.attempts <= position  # a kill may fall between the two commits
        reached = position


@pytest.mark.slow
async def test_processes_may_share_a_place(where: str) -> None:
    """They also create it at the same moment."""
    runs = ("r1", "r2", "r3")
    children = [committing(where, run_id, 60) for run_id in runs]
    with children[0] as one, children[1] as two, children[2] as three:
        for child in (one, two, three):
            begin(child)
        for child in (one, two, three):
            output, errors = child.communicate(timeout=300)
            assert (child.returncode, errors) == (0, "")
            assert output.split() == [str(number) for number in range(1, 61)]
    async with open_store(where) as store:
        for run_id in runs:
            assert await store.tally(run_id) == Tally(read=180, written=180)
            (letter,) = await store.dead_letters(DeadLetterFilter(run_id=run_id))
            assert letter.attempts == 60


async def test_another_process_sees_what_was_reported(where: str) -> None:
    with committing(where, "r1", 0) as child:
        begin(child)
        assert child.stdout is not None
        first = child.stdout.readline()
        async with open_store(where) as store:
            seen = [(await store.tally("r1")).read]
            assert seen[0] >= 3 * int(first)
            for _ in range(3):
                reported = int(child.stdout.readline())
                seen.append((await store.tally("r1")).read)
                assert seen[-1] >= 3 * reported
            assert seen == sorted(seen)


@pytest.mark.series
async def test_server_crash_neither_loses_nor_repeats_commits() -> None:
    """The client lives on, finds out what became of the commit that it had no answer to, and continues."""
    with running(DURABLE) as server:
        with committing(server.address(), "r1", 0) as child:
            begin(child)
            assert child.stdout is not None
            reported = [int(child.stdout.readline()) for _ in range(20)]
            for _ in range(2):
                server.kill()
                server.start()
                async with open_store(server.address()) as store:
                    recovered = (await store.tally("r1")).read // 3
                while reported[-1] <= recovered + 10:
                    reported.append(int(child.stdout.readline()))
            child.terminate()
            # not `communicate`, which knows nothing of the lines that are read ahead already
            reported += [int(line) for line in child.stdout]
            assert child.stderr is not None
            assert (child.stderr.read(), child.wait(300)) == ("", 0)
        assert reported == list(range(1, len(reported) + 1))
        async with open_store(server.address()) as store:
            assert await store.tally("r1") == Tally(read=3 * len(reported), written=3 * len(reported))
            (letter,) = await store.dead_letters(DeadLetterFilter(run_id="r1"))
            assert letter.attempts == len(reported)
