"""The verbs for durable runs, as separate processes against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.contract.clock import SystemClock
from engine.execution.lease import acquire
from engine.fault_injection import VARIABLE
from engine.state import RunRecord, open_store
from engine.temporal.starting import request_before
from tests.servers.temporal import DevServer, find_cli

ROOT = Path(__file__).parents[2]
WAITING = "benchmarks/waiting.yaml"
PATIENCE = 300.0


class Desk:
    """One installation: its own queue and state directory on the server."""

    def __init__(self, server: DevServer, folder: Path, queue: str) -> None:
        self.folder = folder
        self.queue = queue
        self._env = {**os.environ, "TEMPORAL_ADDRESS": server.address, "INGEST_URL": "http://127.0.0.1:9"}

    def engine(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Run a verb to its end; its standard output and error."""
        done = subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            cwd=ROOT,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr

    @property
    def state(self) -> list[str]:
        return ["--state-dir", str(self.folder / "state")]

    @property
    def installation(self) -> list[str]:
        return [*self.state, "--queue", self.queue]

    def submit(self, *arguments: str, code: int = 0) -> str:
        """The id of the run that was submitted."""
        out, _ = self.engine("submit", WAITING, *self.installation, *arguments, code=code)
        return out.split(" run ", 1)[1].split()[0]

    def runs(self) -> list[dict[str, Any]]:
        """What `runs list` says."""
        out, _ = self.engine("runs", "list", "--json", *self.state)
        return [json.loads(line) for line in out.splitlines()]

    def until_known(self, run: str) -> None:
        """Wait until a worker has taken the run up."""
        deadline = time.monotonic() + PATIENCE
        while run not in asyncio.run(written(self.folder / "state")):
            assert time.monotonic() < deadline, f"no worker has started {run}"
            time.sleep(0.1)

    def make_current(self, build: str) -> None:
        """Send new runs to the workers of this version, once they have told the server of themselves."""
        chosen = ["--deployment-name", self.queue, "--build-id", build, "--yes"]
        command = [str(find_cli()), "worker", "deployment", "set-current-version", *chosen]
        deadline = time.monotonic() + PATIENCE
        while (done := subprocess.run(command, env=self._env, capture_output=True, text=True)).returncode:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.2)

    @contextmanager
    def worker(self, *arguments: str, file: str = WAITING) -> Iterator[None]:
        """Run a worker for the duration of the block; SIGTERM ends it cleanly."""
        log = self.folder / "worker.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "engine", "worker", file, *self.installation, *arguments],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


async def written(state: Path) -> dict[str, int]:
    """How many records of each run are written; nothing before anybody has begun anything."""
    if not (state / "state.sqlite3").exists():
        return {}
    async with open_store(state) as store:
        return {run.run_id: (await store.tally(run.run_id)).written for run in await store.list_runs()}


@pytest.fixture
def desk(server: DevServer, tmp_path: Path, request: pytest.FixtureRequest) -> Desk:
    return Desk(server, tmp_path, f"q-{abs(hash(request.node.nodeid)):x}")


SMALL = ["--param", "waiting.splits=6", "--param", "waiting.seconds=0"]


@pytest.mark.slow
def test_a_run_is_submitted_watched_and_listed_beside_local_ones(desk: Desk) -> None:
    with desk.worker():
        out, _ = desk.engine("submit", WAITING, *desk.installation, *SMALL, "--wait")
    assert "waiting   completed" in out
    desk.engine("run", WAITING, *desk.state, *SMALL, "--quiet")

    durable, local = desk.runs()
    assert (durable["durable"], durable["status"], local["durable"]) == (True, "completed", False)
    assert durable["tally"]["written"] == local["tally"]["written"] == 600
    out, _ = desk.engine("watch", str(durable["run_id"]), "--progress", "none", *desk.installation)
    assert "waiting   completed" in out


@pytest.mark.slow
def test_a_run_is_steered_cancelled_and_resumed(desk: Desk) -> None:
    with desk.worker("--role", "workflows", "--role", "planning"):  # so that nothing of it is done
        run = desk.submit(*SMALL)
        desk.until_known(run)
        for action, state in (("pause", "paused"), ("resume", "running")):
            out, _ = desk.engine("control", run, action, *desk.installation)
            assert out == f"{run}: {state}, at most 8 chunks in progress per shard\n"
        out, _ = desk.engine("control", run, "window", "3", *desk.installation)
        assert out == f"{run}: running, at most 3 chunks in progress per shard\n"
        _, error = desk.engine("control", run, "window", "500", *desk.installation, code=2)
        assert "the window must be from 1 to 200 chunks, got 500" in error
        _, error = desk.engine("submit", WAITING, "--resume", run, *desk.installation, code=3)
        assert "already running on Temporal" in error
        desk.engine("cancel", run, *desk.installation)
        out, _ = desk.engine("watch", run, "--progress", "none", *desk.installation, code=6)
        assert "interrupted" in out
        _, error = desk.engine("cancel", run, *desk.installation, code=3)
        assert "has ended" in error
    with desk.worker():
        desk.submit("--resume", run, "--wait")

    (found,) = desk.runs()
    assert (found["run_id"], found["status"], found["attempt"]) == (run, "completed", 2)
    assert found["tally"]["written"] == 600


TIDY = """
  tidy:
    nodes:
      numbers: {source: "benchmarks.waiting:Numbers"}
      forget: {sink: "benchmarks.waiting:Forget"}
"""


@pytest.mark.series
def test_a_run_that_was_started_locally_is_finished_durably(desk: Desk) -> None:
    slow = ["--param=waiting.seconds=0.2", "--param=waiting.splits=32"]
    done = subprocess.run(
        [sys.executable, "-m", "engine", "run", WAITING, *desk.state, "--quiet", *slow],
        cwd=ROOT,
        env={**os.environ, VARIABLE: "batch_read:3:TERM"},
        stderr=subprocess.DEVNULL,
        timeout=PATIENCE,
    )
    assert done.returncode == 6
    (drained,) = desk.runs()
    run = str(drained["run_id"])
    asyncio.run(divide(desk.folder / "state", run, 8))
    changed = desk.folder / "changed.yaml"
    text = (ROOT / WAITING).read_text("utf-8")
    text = text.replace("    nodes:\n", "    outage_limit: 45m\n    on_cancel: [tidy]\n    nodes:\n")
    changed.write_text(text + TIDY, "utf-8")
    with desk.worker():
        _, error = desk.engine(
            "submit", str(changed), *desk.installation, "--resume", run, "--chunk-splits", "5", "--wait"
        )

    assert f"--chunk-splits 5 has no effect: numbers of {run} was divided into chunks of 8" in error
    assert f"changed since {run} was started: settings.outage_limit: " in error
    assert (
        "tidy: may follow, but the server no longer knows the run's original parameters: --param applies "
        "to it as given now\n"
    ) in error
    assert "waiting: may follow" not in error
    (found,) = desk.runs()
    assert (found["status"], found["tally"]["read"], found["tally"]["written"]) == ("completed", 3200, 3200)


async def divide(state: Path, run_id: str, chunk_splits: int) -> None:
    """What an earlier durable attempt would have settled."""
    async with open_store(state) as store, acquire(store, SystemClock(), run_id) as lease:
        assert await store.divide(run_id, "numbers", chunk_splits, epoch=lease.epoch) == chunk_splits


@pytest.mark.series
def test_a_schedule_is_made_changed_paused_and_deleted(desk: Desk) -> None:
    file = desk.folder / "clock.yaml"
    file.write_text((ROOT / "samples" / "scheduled.yaml").read_text("utf-8"), "utf-8")
    server = ["--queue", desk.queue]
    create = ["schedule", "create", str(file), *server]
    assert desk.engine(*create)[0] == "hourly_blobs: scheduled: 0 * * * * UTC\n"
    assert desk.engine(*create, "--overlap", "buffer_one")[0] == (
        "hourly_blobs: schedule changed: 0 * * * * UTC\n"
    )
    for written in ("@every 90m", "2h", "@daily"):
        file.write_text(file.read_text("utf-8").replace('"0 * * * *"', f'"{written}"'), "utf-8")
        desk.engine(*create)
        assert desk.engine("schedule", "list", *server)[0].startswith(f"hourly_blobs  {written}  next 20")
        file.write_text(file.read_text("utf-8").replace(f'"{written}"', '"0 * * * *"'), "utf-8")
    desk.engine(*create)
    file.write_text(f"{file.read_text('utf-8')}\naliases: {{hb: hourly_blobs}}\n", "utf-8")
    desk.engine("schedule", "pause", "hb", "--file", str(file), *server)
    (line,) = desk.engine("schedule", "list", "--json", *server)[0].splitlines()
    listed = json.loads(line)
    assert (listed["pipeline"], listed["paused"]) == ("hourly_blobs", True)
    desk.engine("schedule", "resume", "hourly_blobs", *server)
    assert desk.engine("schedule", "list", *server)[0].startswith("hourly_blobs  0 * * * *  next 20")
    desk.engine("schedule", "delete", "hourly_blobs", *server)
    _, error = desk.engine("schedule", "delete", "hourly_blobs", *server, code=2)
    assert "has no schedule on this server; scheduled: none" in error


def test_files_unfit_for_several_workers_are_refused_at_once(desk: Desk) -> None:
    file = desk.folder / "streams.yaml"
    file.write_text(
        "version: 1\npipelines: {p: {nodes: {a: {source: blob, with: {records: 5}}, b: {sink: stdout}}}}\n",
        "utf-8",
    )
    _, error = desk.engine("submit", str(file), *desk.installation, code=2)
    assert "standard output of one process" in error


@pytest.mark.parametrize("verb", ["submit", "worker"])
def test_a_namespace_that_is_not_there_is_named(verb: str, desk: Desk) -> None:
    _, error = desk.engine(verb, WAITING, *desk.installation, "--namespace", "nowhere", code=3)
    assert "has no namespace 'nowhere': create it with `temporal operator namespace create" in error


@pytest.mark.series
def test_an_address_that_is_none_is_named(desk: Desk) -> None:
    _, error = desk.engine("submit", WAITING, *desk.installation, "--address", "host:gate", code=2)
    assert "'host:gate' is not a valid address of a Temporal server" in error


def test_a_server_that_is_not_there_is_named_with_the_remedy(desk: Desk) -> None:
    _, error = desk.engine("submit", WAITING, *desk.installation, "--address", "127.0.0.1:1", code=3)
    assert error.startswith(
        "error: no Temporal server answers at 127.0.0.1:1. Start one on this machine with"
    )
    assert "temporal server start-dev" in error


def test_what_is_wrong_with_an_encrypted_connection_is_reported(
    server: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_TLS", "true")  # which the development server does not speak
    _, error = Desk(server, tmp_path, "").engine("schedule", "list", code=3)
    assert "answers at" in error
    assert "InvalidMessage" in error


FOLLOWED = """\
version: 1
pipelines:
  stage:
    params: {records: 5}
    on_complete: [enrich]
    nodes:
      numbers: {source: "benchmarks.waiting:Numbers", with: {splits: 2, records: "${params.records}"}}
      forget: {sink: "benchmarks.waiting:Forget"}
  enrich:
    params: {records: 5, seconds: 0.5}
    nodes:
      numbers: {source: "benchmarks.waiting:Numbers", with: {splits: 2, records: "${params.records}"}}
      wait: {transform: "benchmarks.waiting:Wait", with: {seconds: "${params.seconds}"}}
      forget: {sink: "benchmarks.waiting:Forget"}
"""


async def params_of(server: DevServer, pipeline: str, run: str) -> dict[str, dict[str, Any]]:
    """The run parameters that the latest workflow of a run was started with."""
    record = RunRecord(run, pipeline, f"etl/{pipeline}/{run}", "i", {}, {}, {}, "seed", "")
    request = await request_before(server.client, record)
    assert request is not None
    return request.params


@pytest.mark.series
def test_a_resumed_run_keeps_the_parameters_of_its_followers(desk: Desk, server: DevServer) -> None:
    file = desk.folder / "followed.yaml"
    file.write_text(FOLLOWED)
    submit = ["submit", str(file), *desk.installation]
    with desk.worker("--role", "workflows", "--role", "planning", file=str(file)):
        out, _ = desk.engine(*submit, "--param", "stage.records=7", "--param", "enrich.records=8")
        run = out.split(" run ", 1)[1].split()[0]
        desk.until_known(run)
        desk.engine("cancel", run, *desk.installation)
        desk.engine("watch", run, "--progress", "none", *desk.installation, code=6)
    submit += ["--resume", run]
    _, error = desk.engine(*submit, "--param", "stage.records=1", code=2)
    assert "--resume: a run resumes alone and with its original parameters" in error

    _, error = desk.engine(*submit, "--param", "enrich.seconds=0")

    assert "may follow" not in error
    params = asyncio.run(params_of(server, "stage", run))
    assert (params["stage"]["records"], params["enrich"]) == (7, {"records": 8, "seconds": 0.0})


@pytest.mark.series
def test_a_run_stays_with_the_version_of_its_first_workers(desk: Desk) -> None:
    new = desk.folder / "new.yaml"
    new.write_text((ROOT / WAITING).read_text("utf-8").replace("      wait:", "      rest:"), "utf-8")
    old = ["--build-id", "old"]
    with desk.worker(*old, "--role", "workflows", "--role", "planning"):
        with desk.worker(*old, "--role", "work"):  # a version is known by the queues that its workers poll
            desk.make_current("old")
        # without that one nothing of this is done
        begun = desk.submit(*SMALL)
        desk.until_known(begun)
        with desk.worker("--build-id", "new", file=str(new)):
            desk.make_current("new")
            out, _ = desk.engine("submit", str(new), *desk.installation, *SMALL, "--wait")
            assert "waiting   completed" in out
            # a chunk of it that came to the new worker would end the run with PlanMismatch
            with desk.worker(*old, "--role", "work"):
                desk.engine("watch", begun, "--progress", "none", *desk.installation)
    assert [run["status"] for run in desk.runs()] == ["completed", "completed"]


def test_a_version_needs_a_queue_without_a_dot(desk: Desk) -> None:
    given = ["--build-id", "1", "--queue", "a.b", *desk.state]
    _, error = desk.engine("worker", WAITING, *given, code=2)
    assert "'a.b' must not contain a dot" in error
