"""`watch` and `submit --wait` report the state of a durable run, regardless of other clients."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers.temporal import DevServer, running
from tests.temporal.test_cli_durable import PATIENCE, ROOT, SMALL, WAITING, Desk

# the default run meets durable runs elsewhere; these are for the night and `just series`
pytestmark = pytest.mark.series

WITHOUT_WORK = ["--role", "workflows", "--role", "planning"]


@pytest.fixture
def desk(server: DevServer, tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk(server, tmp_path, f"q-{abs(hash(request.node.nodeid)):x}")


class Process:
    """A verb under way; its lines, whichever stream they come from, are read as they are written."""

    def __init__(self, server: DevServer, *arguments: str) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine", *arguments],
            cwd=ROOT,
            env={**os.environ, "TEMPORAL_ADDRESS": server.address},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)

    def until(self, text: str) -> None:
        """Wait for a line with this text."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._lines.get(timeout=PATIENCE):
            assert time.monotonic() < deadline, f"nothing says {text}"

    def ended(self) -> tuple[int, str]:
        """Its exit code and remaining output."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code, "".join(self._lines.queue)


@contextmanager
def begun(server: DevServer, *arguments: str) -> Iterator[Process]:
    process = Process(server, *arguments)
    try:
        yield process
    finally:
        process.process.kill()
        process.process.wait()
        process._reader.join()


def test_watch_explains_a_run_that_no_worker_could_start(desk: Desk) -> None:
    other = desk.folder / "other.yaml"
    other.write_text((ROOT / WAITING).read_text("utf-8").replace("  waiting:", "  other:"), "utf-8")
    with desk.worker(file=str(other)):
        run = desk.submit(*SMALL)
        out, _ = desk.engine("watch", run, "--progress", "none", *desk.installation, code=2)
    assert "\nwaiting: ConfigError: the worker's file does not accept the run: " in out
    assert "to resume" not in out, "no ledger has it"
    assert desk.runs() == []
    log = (desk.folder / "worker.log").read_text()
    assert "Traceback" not in log
    assert '"action": "activity_failed"' in log
    _, error = desk.engine("watch", "nothing-of-it", *desk.installation, code=2)
    assert "The Temporal server (default) has no workflow of that run either" in error


def test_run_of_another_store_shows_the_counts_of_its_workflow(desk: Desk) -> None:
    elsewhere = ["--state-dir", str(desk.folder / "elsewhere")]
    with desk.worker():
        out, error = desk.engine(
            "submit", WAITING, "--queue", desk.queue, *elsewhere, *SMALL, "--wait", code=3
        )
    assert out.splitlines()[-1].split()[:4] == ["waiting", "completed", "600", "600"]
    assert f"is not in the state store {elsewhere[1]}, " in error
    assert "name the workers' state store with --state or --state-dir" in error


def test_watch_shows_a_run_finished_locally_as_completed(desk: Desk) -> None:
    with desk.worker(*WITHOUT_WORK):
        run = desk.submit(*SMALL)
        desk.until_known(run)
        desk.engine("cancel", run, *desk.installation)
        out, _ = desk.engine("watch", run, "--progress", "none", *desk.installation, code=6)
    assert "\nwaiting: to resume: " in out
    assert f" -m engine submit FILE --resume {run} --state-dir " in out
    desk.engine("run", WAITING, *desk.state, "--resume", run, "--quiet")

    out, _ = desk.engine("watch", run, "--progress", "none", *desk.installation)

    assert out.splitlines()[-1].split()[:4] == ["waiting", "completed", "600", "600"]
    desk.engine("run", WAITING, *desk.state, *SMALL, "--quiet")
    _, error = desk.engine("watch", str(desk.runs()[-1]["run_id"]), *desk.installation, code=2)
    assert "it is a local run, or its workflow was deleted" in error


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_come_back(desk: Desk, server: DevServer) -> None:
    with begun(server, "submit", WAITING, *desk.installation, *SMALL, "--wait") as waiting:
        waiting.until("waiting: waiting for a worker")
        waiting.process.send_signal(signal.SIGINT)
        code, said = waiting.ended()
    assert code == 130
    assert " is still running; to watch it: " in said
    assert " watch waiting-" in said
    run = said.split("-m engine cancel ", 1)[1].split()[0]
    desk.engine("cancel", run, *desk.installation)


def test_a_paused_run_and_one_without_workers_are_called_so(desk: Desk, server: DevServer) -> None:
    with desk.worker(*WITHOUT_WORK):
        run = desk.submit(*SMALL)
        desk.until_known(run)
        desk.engine("control", run, "pause", *desk.installation)
        with begun(server, "watch", run, "--progress", "json", *desk.installation) as watching:
            watching.until('"state": "paused, 0 of 6 splits done"')
            desk.engine("control", run, "resume", *desk.installation)
            watching.until('"state": "waiting for a worker"')
            desk.engine("cancel", run, *desk.installation)
            assert watching.ended()[0] == 6


def test_absent_server_is_named_and_a_lost_run_is_an_error(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        desk = Desk(server, tmp_path, "odw")
        with desk.worker(*WITHOUT_WORK):
            run = desk.submit(*SMALL)
            desk.until_known(run)
            with begun(server, "watch", run, "--progress", "json", *desk.installation) as watching:
                watching.until('"state": ')
                server.kill()
                watching.until('"state": "no answer from the Temporal server"')
                server.start()
                code, said = watching.ended()
    assert code == 3
    error = said[said.index("error: ") :]
    assert f"of run {run!r}. The ledger keeps what was committed" in error
    assert f"resume from there with `submit --resume {run}`" in error
    lines = said[: said.index("error: ")].splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines), "the SDK says nothing in between"


def test_too_short_catch_up_window_is_refused(desk: Desk) -> None:
    clock = str(ROOT / "samples" / "scheduled.yaml")
    _, error = desk.engine("schedule", "create", clock, "--catch-up", "1s", code=2)
    assert "--catch-up: Temporal requires at least 10s, got '1s'" in error
