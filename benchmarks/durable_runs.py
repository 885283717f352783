"""Durable runs as the benchmarks measure them: a dev server, workers, and one run that is submitted.

A dev server has one history shard and stores everything in SQLite: the results measure the engine and its
round trips, not Temporal's capacity.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.engine_commands import engine, free_port, serving
from benchmarks.machine import ROOT
from benchmarks.model import Command, Completed, Launch, Work
from benchmarks.process import last_words, process_cpu

WAITING = ROOT / "benchmarks" / "waiting.yaml"
_READY_WITHIN = 60.0
_STOP_WITHIN = 30.0


def temporal_cli() -> str | None:
    """Find the `temporal` program: ODW_TEMPORAL_CLI, PATH, or the one that `.ci/run` has built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odw-engine" / "tools"
    said = os.environ.get("ODW_TEMPORAL_CLI")
    return said or shutil.which("temporal") or shutil.which("temporal", path=cache)


def needs_temporal() -> str | None:
    """Why durable runs cannot be measured here, or None."""
    return None if temporal_cli() else "there is no `temporal` program; .ci/run builds one"


def local_run(
    file: Path, pipeline: str, params: Mapping[str, object], records: int, *, service: bool = False
) -> Command:
    """The same run without Temporal; ``rate`` and ``run`` (seconds) are those of its report."""

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        report = directory / "report.json"
        arguments = [*_chosen(pipeline, params), "--report", str(report)]
        with ExitStack() as stack:
            env = _environment(stack, directory, service=service)

            def work(_: Completed) -> Work:
                found = json.loads(report.read_bytes())["pipelines"][pipeline]
                return _work(found["status"], found["tally"], records, found["seconds"])

            state = directory / "state"
            yield Launch(
                argv=engine("run", str(file), *arguments, "--state-dir", str(state)),
                work=work,
                env=env,
                cwd=ROOT,
            )

    return prepare


def durable_run(
    file: Path,
    pipeline: str,
    params: Mapping[str, object],
    records: int,
    *,
    workers: int = 1,
    slots: int = 4,
    service: bool = False,
) -> Command:
    """A run on this number of worker processes.

    ``run`` is its duration in the ledger; ``server_cpu`` and ``worker_cpu`` are the CPU time of the dev
    server and all workers from the submission to the end.
    """

    @contextmanager
    def prepare(directory: Path) -> Iterator[Launch]:
        state = directory / "state"
        with ExitStack() as stack:
            env = _environment(stack, directory, service=service)
            server, env["TEMPORAL_ADDRESS"] = stack.enter_context(_server(directory))
            pids = [
                stack.enter_context(_worker(file, directory, number, env, slots)) for number in range(workers)
            ]
            before = {pid: process_cpu(pid) for pid in (server, *pids)}

            def work(_: Completed) -> Work:
                used = {pid: process_cpu(pid) - cpu for pid, cpu in before.items()}
                lines = _output("runs", "list", "--json", "--state-dir", str(state)).splitlines()
                run = json.loads(lines[-1])
                began, ended = (datetime.fromisoformat(run[name]) for name in ("started_at", "ended_at"))
                cpu = {"server_cpu": used.pop(server), "worker_cpu": sum(used.values())}
                return _work(run["status"], run["tally"], records, (ended - began).total_seconds(), **cpu)

            yield Launch(
                argv=engine(
                    "submit", str(file), *_chosen(pipeline, params), "--wait", "--state-dir", str(state)
                ),
                work=work,
                env=env,
                cwd=ROOT,
            )

    return prepare


def _work(status: str, tally: Mapping[str, float], records: int, seconds: float, **figures: float) -> Work:
    if status != "completed" or not tally["read"] == tally["written"] == records:
        raise ValueError(f"{status} with {tally}, not completed with {records} read and written")
    return Work(
        records, "all records read and written", {"run": seconds, "rate": records / seconds, **figures}
    )


def _chosen(pipeline: str, params: Mapping[str, object]) -> list[str]:
    given = [f"--param={pipeline}.{name}={value}" for name, value in params.items()]
    return [f"--only={pipeline}", *given]


def _environment(stack: ExitStack, directory: Path, *, service: bool) -> dict[str, str]:
    if not service:
        return {}
    return {"INGEST_URL": stack.enter_context(serving(directory)).url}


@contextmanager
def _server(directory: Path) -> Iterator[tuple[int, str]]:
    program, port = temporal_cli(), free_port()
    assert program is not None, "`needs_temporal` is asked first"
    command = [program, "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)]
    with _running([*command, "--log-level", "error"], directory / "temporal.log", {}) as process:
        deadline = time.monotonic() + _READY_WITHIN
        probe = [program, "operator", "cluster", "health", "--address", f"127.0.0.1:{port}"]
        while subprocess.run(probe, capture_output=True).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("the dev server did not start")
            time.sleep(0.1)
        yield process.pid, f"127.0.0.1:{port}"


@contextmanager
def _worker(file: Path, directory: Path, number: int, env: Mapping[str, str], slots: int) -> Iterator[int]:
    log = directory / f"worker-{number}.log"
    command = engine(
        "worker", str(file), "--state-dir", str(directory / "state"), "--slots", str(slots),
        "--log-format", "none",
    )  # fmt: skip
    with _running(command, log, env) as process:
        deadline = time.monotonic() + _READY_WITHIN
        while b"working on" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a worker did not start: {last_words(log.read_bytes())}")
            time.sleep(0.05)
        yield process.pid


@contextmanager
def _running(command: Sequence[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _output(*arguments: str) -> str:
    done = subprocess.run(engine(*arguments), cwd=ROOT, capture_output=True, check=True, timeout=60)
    return done.stdout.decode()
