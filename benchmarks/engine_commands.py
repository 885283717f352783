"""The engine's command line for process arms; nothing here imports the engine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

from benchmarks.machine import ROOT
from benchmarks.process import last_words

PIPELINES = ROOT / "pipelines.yaml"
_READY_WITHIN = 300.0
_STOP_WITHIN = 15.0


class Tally(TypedDict):
    """The record counts of a pipeline."""

    read: int
    written: int
    dropped: int
    dead: int


class PipelineReport(TypedDict):
    """A pipeline's part of the file that ``run --report`` writes; ``seconds`` is its wall time."""

    status: str
    seconds: float
    tally: Tally


@dataclass(frozen=True, slots=True)
class Service:
    """A running ingest service."""

    url: str
    pid: int


def engine(*arguments: str) -> list[str]:
    """Return the command line ``python -m engine …`` of this Python."""
    return [sys.executable, "-m", "engine", *arguments]


def needs(*verbs: str, pipelines: bool = True) -> Callable[[], str | None]:
    """Report a missing verb of the engine, or a missing ``pipelines.yaml``; for ``Arm.unavailable``."""

    def reason() -> str | None:
        if pipelines and not PIPELINES.exists():
            return f"{PIPELINES.name} is not there"
        return next((found for verb in verbs if (found := missing(verb))), None)

    return reason


@cache
def missing(verb: str) -> str | None:
    """Return why ``python -m engine VERB`` cannot be run, or None; ``--help`` checks the whole engine."""
    command = engine("--help") if verb == "--help" else engine(verb, "--help")
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return f"`python -m engine {verb}` does not answer within 60 s"
    if done.returncode == 0:
        return None
    return f"`python -m engine {verb}` does not run: {last_words(done.stderr) or 'no message'}"


@contextmanager
def serving(directory: Path) -> Iterator[Service]:
    """Run ``python -m engine serve`` in another process with its state in ``directory``.

    Raises RuntimeError with the end of its output if it is not healthy within 30 s.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = directory / "serve.log"
    command = engine("serve", "--port", str(port), "--state-dir", str(directory / "service"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_healthy(process, url, log)
        yield Service(url, process.pid)
    finally:
        _stop(process)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError(f"the ingest service did not start: {last_words(log.read_bytes())}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_WITHIN)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
