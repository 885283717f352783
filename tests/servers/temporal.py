"""The Temporal dev server as a separate process, which can be killed and started again."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from temporalio.client import Client

from engine.temporal.messages import SEARCH_ATTRIBUTES
from tests.servers.needed import find_program
from tests.servers.ports import lasting_port

__all__ = ["CLI_VARIABLE", "DevServer", "find_cli", "running"]

CLI_VARIABLE = "ODW_TEMPORAL_CLI"
START_SECONDS = 300.0
# connections are made once and used in many tests, so they have to last
LASTING = {
    "frontend.keepAliveMaxConnectionIdle": '"24h"',
    "frontend.keepAliveMaxConnectionAge": '"24h"',
}


def find_cli() -> Path:
    """The `temporal` program: what the variable says, else on PATH, else in the cache. May skip the test."""
    return find_program("temporal", CLI_VARIABLE)


class DevServer:
    """A dev server on loopback, with our search attributes in its namespace `default`.

    Args:
        folder: for its log and its database.
        database: keep everything in a file, so that nothing is lost when it is killed.
        dynamic: dynamic configuration, by key, the values as JSON. A misspelt key is ignored silently.
    """

    def __init__(
        self, folder: Path, *, database: bool = False, dynamic: Mapping[str, str] | None = None
    ) -> None:
        self._cli = find_cli()
        self._log = folder / "temporal.log"
        self._database = folder / "temporal.sqlite3" if database else None
        self._dynamic = LASTING | dict(dynamic or {})
        self._port = 0
        self._clients: list[Client] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port` of the front end; stays the same when it is started again."""
        return f"127.0.0.1:{self._port}"

    @property
    def clients(self) -> list[Client]:
        """Connected clients, the same for all tests: a connection outlives its user.

        Each may poll a queue by one worker only.
        """
        return self._clients

    @property
    def client(self) -> Client:
        """The first of them."""
        return self._clients[0]

    def start(self) -> None:
        """Start it and wait until it answers. Not to be called on a running event loop."""
        until, first = time.monotonic() + START_SECONDS, not self._port
        while not self._comes_up(until, port=lasting_port() if first else self._port):
            self.kill()
            if time.monotonic() >= until:
                raise RuntimeError(f"the dev server does not come up: {self._log.read_text()[-2000:]}")
            time.sleep(0.2)  # its port is taken

    def _comes_up(self, until: float, *, port: int) -> bool:
        self._port = port
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return asyncio.run(self._answers(until))

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _command(self) -> list[str]:
        command = [str(self._cli), "server", "start-dev", "--headless", "--log-level", "error"]
        command += ["--ip", "127.0.0.1", "--port", str(self._port)]
        for key in SEARCH_ATTRIBUTES:
            command += ["--search-attribute", f"{key.name}=Keyword"]
        for name, value in self._dynamic.items():
            command += ["--dynamic-config-value", f"{name}={value}"]
        return command + (["--db-filename", str(self._database)] if self._database is not None else [])

    async def _answers(self, until: float) -> bool:
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            try:
                client = await Client.connect(self.address, identity="tests")
            except RuntimeError:
                await asyncio.sleep(0.05)
                continue
            if await client.service_client.check_health():
                self._clients = [client, await Client.connect(self.address, identity="tests too")]
                return True
        return False


@contextmanager
def running(
    folder: Path, *, database: bool = False, dynamic: Mapping[str, str] | None = None
) -> Iterator[DevServer]:
    """A dev server that ends with the block; arguments as for `DevServer`."""
    server = DevServer(folder, database=database, dynamic=dynamic)
    server.start()
    try:
        yield server
    finally:
        server.kill()  # at once: its content is not needed
