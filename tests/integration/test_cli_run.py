"""`python -m engine run` as a real process: exit codes, two signals, progress, logs, resuming."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import httpx
import pytest

from engine.cli.exit_codes import ExitCode
from engine.state import Follower, open_store

PATIENCE = 300

COPY = """\
version: 1
pipelines:
  copy:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      out: {sink: stdout}
"""

LONG = """\
version: 1
pipelines:
  long:
    params: {rows: 100000000}
    nodes:
      make: {source: logs, with: {records: "${params.rows}", seed: 7}}
      keep: {sink: jsonl, with: {path: out.fifo}}
"""

LOADING = """\
version: 1
connections: {warehouse: {url: "${INGEST_URL:-sandbox}"}}
pipelines:
  blobs:
    params: {rows: 200, fail_percentage: 0}
    nodes:
      make: {source: blob, with: {records: "${params.rows}"}}
      mark: {transform: simulate_failures, with: {percentage: "${params.fail_percentage}", field: file_name}}
      load: {sink: ingest, with: {model: BlobSource}}
"""

Engine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Runs a verb in `tmp_path`."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "engine", *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "pipelines.yaml").write_text(text, encoding="utf-8")


def test_records_have_standard_output_to_themselves(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, COPY)
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n{"n": 2}\n', encoding="utf-8")
    done = engine("run", "--report", "report.json")
    assert (done.returncode, done.stdout) == (ExitCode.COMPLETED, '{"n":1}\n{"n":2}\n')
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    ended = [event["action"] for event in events if event["action"].endswith("_finished")]
    assert ended == ["read_finished", "out_finished", "run_finished"]
    assert events[0]["action"] == "run_started"
    for event in events:
        assert list(event)[:6] == ["timestamp", "level", "action", "message", "run", "pipeline"]
        assert event["pipeline"] == "copy"
    assert "copy      completed     2        2" in done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["pipelines"]["copy"]["tally"]["written"] == 2
    assert report["pipelines"]["copy"]["balanced"] is True


def test_with_json_progress_standard_error_is_json_and_nothing_else(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, COPY)
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")
    done = engine("run", "--progress", "json", "--log-format", "none")
    assert done.returncode == ExitCode.COMPLETED
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines][-1] == "ended"
    assert lines[-1]["tally"]["written"] == 1


def test_quiet_says_nothing_at_all_about_a_run_that_completes(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, COPY)
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")
    done = engine("run", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.COMPLETED, '{"n":1}\n', "")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "pipeline.yaml"], ExitCode.USAGE, "no such file (did you mean pipelines.yaml?)"),
        (["run", "--only", "coppy"], ExitCode.USAGE, "unknown pipeline `coppy`, did you mean `copy`?"),
        (["run", "--resume", "--only", "coppy"], ExitCode.USAGE, "unknown pipeline `coppy`, did you mean"),
        (["run", "--memory", "lots"], ExitCode.USAGE, "--memory: expected a size such as"),
        (["run", "--memory", "0"], ExitCode.USAGE, "--memory: expected a size above 0, got '0'"),
        (["run", "--report", "no/such/r.json"], ExitCode.USAGE, "--report: no such directory"),
        (["run", "--resume"], ExitCode.ENVIRONMENT, "nothing has run with this state directory yet"),
        (["run", "--resume", "nope"], ExitCode.ENVIRONMENT, "nothing has run with this state directory yet"),
        (["run", "--state-dir", "pipelines.yaml"], ExitCode.ENVIRONMENT, "error: "),
        (["run"], ExitCode.FAILED, "node 'read' failed"),
        (["dlq", "list", "--state-dir", "nowhere"], ExitCode.ENVIRONMENT, "error: "),
        (["serve", "--state-dir", "pipelines.yaml", "--port", "0"], ExitCode.ENVIRONMENT, "error: "),
    ],
)
def test_every_failure_has_its_exit_code_and_one_clear_message(
    tmp_path: Path, engine: Engine, arguments: list[str], code: ExitCode, message: str
) -> None:
    write(tmp_path, COPY)
    done = engine(*arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if code is not ExitCode.FAILED:
        assert done.stdout == ""
    if "--resume" in arguments:
        assert not (tmp_path / ".odw").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--resume"], "no run to resume yet"), (["--resume", "nope"], "no run 'nope'")],
)
def test_resuming_an_unknown_run_is_a_usage_error(
    tmp_path: Path, engine: Engine, arguments: list[str], message: str
) -> None:
    async def begun() -> None:
        async with open_store(tmp_path / ".odw"):
            pass

    write(tmp_path, COPY)
    anyio.run(begun)
    done = engine("run", *arguments)

    assert done.returncode == ExitCode.USAGE, done.stderr
    assert message in done.stderr


@pytest.mark.slow
def test_too_many_dead_letters_exit_with_4_and_a_hint(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, LOADING)
    limit = "pipelines.blobs.dead_letters.max=3"
    done = engine("run", "--param", "blobs.fail_percentage=50", "--set", limit, "--report", "r.json")
    assert done.returncode == ExitCode.DEAD_LETTER_BUDGET
    run_id = json.loads((tmp_path / "r.json").read_text())["pipelines"]["blobs"]["run_id"]
    assert f"python -m engine dlq list --run {run_id}" in done.stdout
    assert "3 are allowed" in done.stdout


@pytest.mark.slow
def test_a_refused_connection_is_an_outage_that_names_the_service(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, LOADING)
    done = engine("run", "--set", "pipelines.blobs.outage_limit=10ms", INGEST_URL="http://127.0.0.1:9")
    assert done.returncode in (ExitCode.OUTAGE, ExitCode.ENVIRONMENT)
    assert "no ingest service is listening at http://127.0.0.1:9" in done.stdout
    assert "--resume blobs-" in done.stdout


class Child:
    """A run of LONG whose sink is read by the test."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        os.mkfifo(folder / "out.fifo")
        command = [sys.executable, "-m", "engine", "run", "--log-format", "none", *arguments]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        self._pipe = (folder / "out.fifo").open("rb")

    def lines(self, count: int) -> list[bytes]:
        return [self._pipe.readline() for _ in range(count)]

    def rest(self) -> list[bytes]:
        return self._pipe.readlines()

    def close(self) -> None:
        self._pipe.close()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    write(tmp_path, LONG)
    running = Child(tmp_path, "--report", "report.json")
    try:
        yield running
    finally:
        running.close()


def wait_for_line(process: subprocess.Popen[bytes], part: bytes) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if part in line:
            return
    raise AssertionError(f"the process ended without saying {part!r}")


def test_the_first_signal_delivers_what_was_read(child: Child, tmp_path: Path, engine: Engine) -> None:
    received = child.lines(10)
    child.process.send_signal(signal.SIGINT)
    received += child.rest()
    _, errors = child.process.communicate(timeout=PATIENCE)
    assert child.process.returncode == ExitCode.INTERRUPTED
    assert b"draining: press Ctrl-C again to stop at once\n" in errors
    report = json.loads((tmp_path / "report.json").read_text())["pipelines"]["long"]
    assert report["status"] == "interrupted"
    assert report["tally"]["read"] == report["tally"]["written"] == len(received)
    assert report["balanced"] is True

    # a resume is another attempt of the same run, under the parameters that it was begun with
    (tmp_path / "out.fifo").unlink()
    os.mkfifo(tmp_path / "out.fifo")
    refused = engine("run", "--resume", report["run_id"], "--set", "pipelines.long.nodes.make.with.seed=8")
    assert refused.returncode == ExitCode.USAGE
    assert "was started with a different plan" in refused.stdout


def test_a_second_signal_stops_at_once_with_the_signals_number(tmp_path: Path) -> None:
    write(tmp_path, LOADING)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {**os.environ, "INGEST_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", "run"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
        )
        with process:
            connection, _ = silent.accept()  # whose request is never answered, so the drain cannot end
            with connection:
                process.send_signal(signal.SIGTERM)
                wait_for_line(process, b"draining: send the signal again to stop at once")
                process.send_signal(signal.SIGTERM)
                wait_for_line(process, b"stopping at once")
                assert process.wait(PATIENCE) == 128 + signal.SIGTERM


FOLLOWED = """\
version: 1
pipelines:
  first:
    ON_COMPLETE
    nodes: {read: {source: jsonl, with: {path: in.jsonl}}, keep: {sink: jsonl, with: {path: first.jsonl}}}
  second:
    nodes: {read: {source: jsonl, with: {path: first.jsonl}}, keep: {sink: jsonl, with: {path: second.jsonl}}}
"""


KILLED_AT_THE_END = """\
import os, signal
from engine.cli import program
from engine.state.store import StateStore

update_run = StateStore.update_run

async def and_die(self, *arguments, **options):
    await update_run(self, *arguments, **options)
    if options.get("ended_at"):
        os.kill(os.getpid(), signal.SIGKILL)

StateStore.update_run = and_die
raise SystemExit(program())
"""
"""An engine that is killed once the end of a run is stored."""


def killed_at_the_end(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED_AT_THE_END, *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_resume_starts_followers_that_did_not_start(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")
    write(tmp_path, FOLLOWED.replace("ON_COMPLETE", "on_complete: second"))
    with killed_at_the_end(tmp_path, "run") as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL

    done = engine("run", "--resume")
    assert done.returncode == ExitCode.COMPLETED, done.stderr
    assert "second: starting now because first has completed" in done.stderr
    assert (tmp_path / "second.jsonl").read_text(encoding="utf-8") == '{"n":1}\n'
    assert (tmp_path / "first.jsonl").read_text(encoding="utf-8") == '{"n":1}\n'
    again = engine("run", "--resume")
    assert "nothing to resume" in again.stderr


@pytest.mark.slow
def test_serve_starts_followers_that_did_not_start(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")
    write(tmp_path, FOLLOWED.replace("ON_COMPLETE", "min_records: 2\n    on_failure: second"))
    serve = ("serve", "pipelines.yaml", "--port", "0")
    with killed_at_the_end(tmp_path, *serve) as process:
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip(";,")
        with suppress(httpx.TransportError):  # the run may end before its start is answered
            httpx.get(f"{url}/consumption/extract-first", timeout=PATIENCE)
        assert process.wait(PATIENCE) == -signal.SIGKILL

    command = [sys.executable, "-m", "engine", *serve]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.terminate()
    assert lines[1:] == [
        "second: starting now because first has failed\n",
        "second completed: 1 read, 1 written, 0 dead\n",
    ]

    async def left() -> tuple[list[str], list[Follower]]:
        async with open_store(tmp_path / ".odw") as store:
            return [run.pipeline for run in await store.list_runs()], await store.followers()

    assert anyio.run(left) == (["first", "second"], [])


WITH_PARAMETERS = """\
version: 1
pipelines:
  first:
    on_complete: second
    nodes: {read: {source: jsonl, with: {path: in.jsonl}}, keep: {sink: jsonl, with: {path: first.jsonl}}}
  second:
    params: {to: second.jsonl}
    nodes:
      read: {source: jsonl, with: {path: first.jsonl}}
      keep: {sink: jsonl, with: {path: "${params.to}"}}
"""


@pytest.mark.parametrize(
    ("given", "written"), [((), "other.jsonl"), (("second.to=third.jsonl",), "third.jsonl")]
)
def test_what_follows_a_resumed_run_has_the_parameters_it_was_to_have(
    tmp_path: Path, engine: Engine, given: tuple[str, ...], written: str
) -> None:
    write(tmp_path, WITH_PARAMETERS)
    first = ("run", "--only", "first", "--param", "second.to=other.jsonl")
    assert engine(*first).returncode != ExitCode.COMPLETED  # there is nothing to read
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")

    params = [text for one in given for text in ("--param", one)]
    done = engine("run", "--resume", *params)
    assert done.returncode == ExitCode.COMPLETED, done.stderr
    assert "changed:" not in done.stderr
    assert (tmp_path / written).read_text(encoding="utf-8") == '{"n":1}\n'
    assert not (tmp_path / "second.jsonl").exists()


def test_a_resume_says_which_parameters_count_for_what_follows(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, FOLLOWED.replace("ON_COMPLETE", "on_complete: second"))
    assert engine("run", "--only", "first").returncode != ExitCode.COMPLETED  # there is nothing to read
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")

    done = engine("run", "--resume")
    assert done.returncode == ExitCode.COMPLETED, done.stderr
    assert "first: resuming run first-" in done.stderr
    assert "second: may follow with its original parameters; --set applies as given now\n" in done.stderr
    assert "first: may follow" not in done.stderr


def test_a_killed_run_is_resumed_without_being_named(tmp_path: Path, engine: Engine) -> None:
    write(tmp_path, LONG)
    child = Child(tmp_path, "--param", "long.rows=30000")
    try:
        assert len(child.lines(20_000)) == 20_000
        child.process.kill()
        child.process.communicate(timeout=PATIENCE)
    finally:
        child.close()
    (tmp_path / "out.fifo").unlink()
    done = engine("run", "--resume", "--report", "report.json")
    assert done.returncode == ExitCode.COMPLETED, done.stderr
    assert "long: resuming run long-" in done.stderr
    assert "(killed in attempt 1, now attempt 2)" in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())["pipelines"]["long"]
    assert report["attempt"] == 2
    assert report["tally"]["written"] == 30_000
    again = engine("run", "--resume")
    assert (again.returncode, again.stdout) == (ExitCode.COMPLETED, "")
    assert "nothing to resume" in again.stderr
