"""Five problems from an operator's view: the worker's log, `watch` and Temporal's page explain them.

docs/temporal.md has the table of what each of the three shows.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.servers.temporal import DevServer, running
from tests.temporal.test_cli_durable import ROOT

pytestmark = pytest.mark.series

PATIENCE = 300.0
NOWHERE = "http://127.0.0.1:9"
PIPELINES = """\
version: 1
connections: {warehouse: {url: "${INGEST_URL}"}}
pipelines:
  staged:
    nodes:
      make: {source: logs, with: {records: 2000, split_size: 100}}
      load: {sink: ingest, with: {connection: warehouse, model: LogSource}}
"""
SLOW = "benchmarks/waiting.yaml"


class Unauthorized(BaseHTTPRequestHandler):
    """Answers 401 to everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - the name that the server looks for

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


class Stage:
    """A worker, a submitted run, and a watching process, with their output in files."""

    def __init__(self, server: DevServer, folder: Path, file: str, ingest: str) -> None:
        self.server, self.folder, self.file = server, folder, file
        self._env = {**os.environ, "TEMPORAL_ADDRESS": server.address, "INGEST_URL": ingest}
        self._place = ["--state-dir", str(folder / "state"), "--queue", folder.name]
        self.worker: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self.run = ""

    def start(self, *, worker: bool = True, arguments: tuple[str, ...] = ()) -> None:
        """Begin all of it."""
        if worker:
            self.worker = self._begin("worker", self.file)
            self.until(lambda: "worker ready" in self.log, "the worker does not come up")
        done = subprocess.run(
            [sys.executable, "-m", "engine", "submit", self.file, *self._place, *arguments],
            cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=PATIENCE, check=True,
        )  # fmt: skip
        self.run = done.stdout.split(" run ", 1)[1].split()[0]
        self._watch = self._begin("watch", self.run, "--progress", "plain")

    def _begin(self, verb: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{verb}.log").open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "engine", verb, *arguments, *self._place],
                cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What the worker has logged."""
        return (self.folder / "worker.log").read_text("utf-8")

    @property
    def watched(self) -> str:
        """What `watch` has shown."""
        return (self.folder / "watch.log").read_text("utf-8")

    def page(self) -> str:
        """The details of the run's workflow on Temporal's page."""

        async def ask() -> str:
            async for found in self.server.client.list_workflows("WorkflowType = 'PipelineRun'"):
                if found.id.endswith(self.run):
                    handle = self.server.client.get_workflow_handle(found.id)
                    told = await handle.query("__temporal_workflow_metadata", rpc_timeout=None)
                    return str(told.current_details)
            return ""

        with suppress(Exception):
            return asyncio.run(ask())
        return ""

    def until(self, true: Callable[[], object], otherwise: str) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, (otherwise, self.watched[-2000:], self.log[-2000:])
            time.sleep(0.2)

    def until_watched(self, text: str) -> None:
        """Wait until `watch` shows it."""
        self.until(lambda: re.search(text, self.watched), f"watch does not show {text}")

    def until_logged(self, text: str) -> None:
        """Wait until the worker's log has it."""
        self.until(lambda: re.search(text, self.log), f"the log does not have {text}")

    def end(self) -> None:
        """End what still runs."""
        for process in (self.worker, self._watch):
            if process is not None:
                process.kill()
                process.wait()


@contextmanager
def staged(server: DevServer, folder: Path, ingest: str = NOWHERE, file: str = "") -> Iterator[Stage]:
    path = folder / "staged.yaml"
    path.write_text(PIPELINES, "utf-8")
    stage = Stage(server, folder, file or str(path), ingest)
    try:
        yield stage
    finally:
        stage.end()


def test_a_service_that_is_away(server: DevServer, tmp_path: Path) -> None:
    refused = f"connection refused: no ingest service is listening at {NOWHERE}"
    with staged(server, tmp_path) as stage:
        stage.start()
        stage.until_watched(f"load has been waiting for .*: {refused}")
        stage.until_logged(f"load waits for a retry: {refused}")
        stage.until(lambda: refused in stage.page(), "the page does not say it")


def test_a_token_that_is_wrong(server: DevServer, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Unauthorized) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{service.server_address[1]}"
        answered = f"POST {url}/ingest/LogSource answered 401: the token is missing or wrong"
        with staged(server, tmp_path, url) as stage:
            stage.start()
            stage.until_watched(f"staged: AuthError: node 'load' failed: {answered}")
            stage.until_logged(f"run_chunk: AuthError: node 'load' failed: {answered}")
            stage.until(
                lambda: f": failed\n\n**failed**: `node 'load' failed: {answered}" in stage.page(), ""
            )
            assert "Traceback" not in stage.log
        service.shutdown()


def test_no_worker(server: DevServer, tmp_path: Path) -> None:
    with staged(server, tmp_path) as stage:
        (tmp_path / "worker.log").touch()
        stage.start(worker=False)
        stage.until_watched("staged: waiting for a worker")


def test_a_worker_that_was_killed(server: DevServer, tmp_path: Path) -> None:
    with staged(server, tmp_path, file=SLOW) as stage:
        stage.start(arguments=("--param", "waiting.seconds=60"))
        stage.until_watched("running")
        assert stage.worker is not None
        stage.worker.send_signal(signal.SIGKILL)
        stage.until_watched("waiting for a worker")


def test_a_temporal_server_that_is_away(tmp_path: Path) -> None:
    own = tmp_path / "server"
    own.mkdir()
    with running(own, database=True) as server, staged(server, tmp_path, file=SLOW) as stage:
        stage.start(arguments=("--param", "waiting.seconds=60"))
        stage.until_watched("running")
        server.kill()
        stage.until_watched("no answer from the Temporal server")
        stage.until_logged(
            r"no answer from the Temporal server \(tcp connect error\): the worker tries again"
        )
        assert "gRPC call" not in stage.log
