"""Processes of the command line: start, wait, kill, and keep their output in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.fault_injection import VARIABLE
from engine.service.discovery import find_running
from tests.servers.ports import lasting_port

__all__ = ["ENGINE", "ROOT", "Child", "Service", "sandboxed", "serving"]

ROOT = Path(__file__).parents[3]
START_SECONDS = 300.0
STOP_SECONDS = 300.0
LOOK_EVERY = 0.02
ENGINE = ("-m", "engine")


class Child:
    """`python -m engine …` (or another program), with its output in `<log>.out` and `<log>.err`."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = ENGINE,
    ) -> None:
        self.arguments = list(arguments)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
        with _file(log, "out").open("wb") as out, _file(log, "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *program, *arguments],
                cwd=ROOT,
                env={**clean, "PYTHONPATH": str(ROOT), **(env or {})},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
            )

    @property
    def errors(self) -> str:
        """What it has written to standard error, the last 4 KB."""
        return _file(self.log, "err").read_text("utf-8", "replace")[-4096:]

    @property
    def output(self) -> str:
        """What it has written to standard output."""
        return _file(self.log, "out").read_text("utf-8", "replace")

    def wait(self, seconds: float) -> int | None:
        """Its exit code (negative: the signal that ended it), or None when it still runs after that time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        self.process.send_signal(number)

    def kill(self) -> int:
        """SIGKILL, and its exit code."""
        self.process.kill()
        return self.close()

    def close(self) -> int:
        """Wait for its end and close its pipe.

        Raises:
            TimeoutError: it does not end; it is killed then.
        """
        if self.process.stdin is not None:
            self.process.stdin.close()
        code = self.wait(STOP_SECONDS)
        if code is None:
            self.process.kill()
            self.process.wait()
            raise TimeoutError(f"{' '.join(self.arguments)} did not end within {STOP_SECONDS:g} s")
        return code


class Service:
    """An ingest service that can be killed, stopped in its tracks, and started again at the same address."""

    def __init__(self, state_dir: Path, log: Path) -> None:
        self.state_dir = state_dir
        self.log = log
        self.starts = 0
        self._port = lasting_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._child: Child | None = None

    def start(self, point: str = "") -> None:
        """Start it and wait until it answers, or until it has died at this fault point on its way."""
        self.starts += 1
        command = ["serve", "--port", str(self._port), "--state-dir", str(self.state_dir)]
        log = self.log.with_name(f"{self.log.name}-{self.starts}")
        self._child = child = Child(command, log, {VARIABLE: point} if point else None)
        until = time.monotonic() + START_SECONDS
        while (found := find_running(self.state_dir)) is None or found.pid != child.process.pid:
            code = child.wait(LOOK_EVERY)
            if code == -signal.SIGKILL and point:
                return
            if code is not None:
                child.close()
                raise RuntimeError(f"serve ended early with {code}: {child.errors}")
            if time.monotonic() > until:
                child.kill()
                raise TimeoutError("serve did not come up")

    def died(self, within: float) -> bool:
        """Whether it ends within so many seconds by itself, or is not there at all."""
        return self._child is None or self._child.wait(within) is not None

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        if self._child is not None:
            self._child.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        if self._child is not None:
            self._child.send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stop(self) -> int:
        """SIGTERM, and its exit code; 0 when it does not run."""
        child, self._child = self._child, None
        if child is None:
            return 0
        child.send(signal.SIGTERM)
        return child.close()


@contextmanager
def serving(state_dir: Path, log: Path, point: str = "") -> Iterator[Service]:
    """A running ingest service, that strikes itself at a fault point."""
    service = Service(state_dir, log)
    try:
        service.start(point)
        yield service
    except BaseException:
        service.kill()
        raise
    code = service.stop()
    if code:
        raise RuntimeError(f"serve ended with {code}: {log}")


@contextmanager
def sandboxed(
    services: str, state_dir: Path, samples: Path, log: Path
) -> Iterator[dict[str, dict[str, str]]]:
    """The embedded S3 and model in a process of their own; gives their addresses."""
    command = ["sandbox", "--services", services, "--state-dir", str(state_dir), "--samples", str(samples)]
    child = Child(command, log)
    try:
        until = time.monotonic() + START_SECONDS
        while "\n" not in child.output:
            if child.wait(LOOK_EVERY) is not None:
                raise RuntimeError(f"the sandbox ended early: {child.errors}")
            if time.monotonic() > until:
                raise TimeoutError("the sandbox did not come up")
        yield json.loads(child.output.partition("\n")[0])
    finally:
        child.close()  # its input ends, and so does it


def _file(log: Path, kind: str) -> Path:
    return log.with_name(f"{log.name}.{kind}")
