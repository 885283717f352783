"""ClickHouse's engine as a separate process, from the environment that `.ci/run` creates."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from threading import Timer
from typing import Any

import orjson

from tests.servers.needed import KEPT, TOOLS, missing

__all__ = ["PASSWORD", "ClickHouse", "running"]

PASSWORD = "s3cret-é"
START_SECONDS = 300.0
PYTHON = TOOLS / "clickhouse" / "bin" / "python"
PROGRAM = Path(__file__).with_name("clickhouse_program.py")


class ClickHouse:
    """A server that can be stopped and started again, on the same port.

    Args:
        folder: for its data.
    """

    def __init__(self, folder: Path) -> None:
        if not PYTHON.exists():
            missing(f"no ClickHouse in {PYTHON.parents[1]}: run .ci/run, which installs it")
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Have it running and answering."""
        if self._process is not None:
            return
        port = self.url.rpartition(":")[2] or "0"
        self._process = subprocess.Popen(
            [PYTHON, "-u", PROGRAM, str(self._folder / "data"), PASSWORD, port],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        KEPT.add(str(self._process.pid))
        patience = Timer(START_SECONDS, self._process.kill)
        patience.start()
        try:
            assert self._process.stdout is not None
            self.url = self._process.stdout.readline().strip()
        finally:
            patience.cancel()
        if not self.url:
            _, said = self._process.communicate()
            raise RuntimeError(f"ClickHouse does not come up: {said[-1000:]}")

    def stop(self) -> None:
        """End it, and break all connections."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()
            KEPT.discard(str(process.pid))

    def sql(self, statement: str) -> list[Any]:
        """Execute a statement behind the engine's back; the rows of a query."""
        queries = statement.lstrip().upper().startswith("SELECT")
        login = b64encode(f"default:{PASSWORD}".encode()).decode()
        connection = HTTPConnection(self.url.removeprefix("http://"), timeout=START_SECONDS)
        try:
            content = f"{statement} FORMAT JSONCompact" if queries else statement
            connection.request("POST", "/", content.encode(), {"Authorization": f"Basic {login}"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        assert answer.status == 200, body.decode()
        return [tuple(row) for row in orjson.loads(body)["data"]] if queries else []


@contextmanager
def running(folder: Path) -> Iterator[ClickHouse]:
    """A server that ends with the block. May skip the test."""
    server = ClickHouse(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
