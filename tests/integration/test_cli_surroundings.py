"""The environment of the command line: folders, closed streams, other locales, occupied places."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli.event_loop import on_event_loop
from engine.cli.exit_codes import ExitCode
from tests.series import few

PATIENCE = 300
MODULE = """\
import engine


@engine.transform
def double(record):
    return {"n": record["n"] * 2}
"""
DOUBLED = """\
version: 1
pipelines:
  numbers:
    nodes:
      read: {source: jsonl, with: {path: "-"}}
      double: {transform: "FOLDERMODULE:double"}
      show: {sink: stdout}
"""
LONG = """\
version: 1
pipelines:
  first:
    params: {path: in.jsonl}
    nodes:
      read: {source: jsonl, with: {path: "${params.path}"}}
      keep: {sink: jsonl, with: {path: out.jsonl}}
  second:
    nodes:
      make: {source: logs, with: {records: 1}}
      keep: {sink: jsonl, with: {path: second.jsonl}}
"""
# what the installed command `odw` does: unlike with `python -m`, the folder it is started in is not searched
INSTALLED = (
    "import sys; sys.argv[0] = 'odw'; sys.path.remove(''); from engine.cli import main; sys.exit(main())"
)


def odw(cwd: Path, *arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    """Runs a verb as the installed command does."""
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", INSTALLED, *arguments],
        **{"cwd": cwd, "capture_output": True, "text": True, "timeout": PATIENCE, "check": False, **more},
    )


@pytest.mark.slow
@pytest.mark.parametrize("started_in", [".", "elsewhere"])
def test_module_beside_the_file_is_found_from_any_directory(tmp_path: Path, started_in: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "beside_the_file.py").write_text(MODULE, encoding="utf-8")
    file = tmp_path / "numbers.yaml"
    file.write_text(DOUBLED.replace("FOLDERMODULE", "beside_the_file"), encoding="utf-8")
    done = odw(tmp_path / started_in, "run", str(file), "--quiet", input='{"n": 4}\n')
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"n":8}\n', "")


@pytest.mark.slow
def test_a_module_in_the_folder_the_command_is_started_in_is_found(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "where_i_am.py").write_text(MODULE, encoding="utf-8")
    file = tmp_path / "files" / "numbers.yaml"
    file.write_text(DOUBLED.replace("FOLDERMODULE", "where_i_am"), encoding="utf-8")
    assert odw(tmp_path, "validate", str(file)).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed by the shell")
@pytest.mark.parametrize("closed", few([">&-", "2>&-", "<&- >&- 2>&-"], 1))
def test_a_closed_stream_disturbs_nothing(tmp_path: Path, closed: str) -> None:
    (tmp_path / "pipelines.yaml").write_text(LONG, encoding="utf-8")
    verb = "run --only second --report report.json"
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "{sys.executable}" -m engine {verb} {closed}'],
        cwd=tmp_path,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "report.json").read_text())["pipelines"]["second"]["tally"]["written"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_without_unicode_gets_a_drawing_all_the_same(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "pipelines.yaml").write_text(LONG, encoding="utf-8")
    done = odw(
        tmp_path, "graph", text=False, env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    )
    assert done.returncode == 0
    assert "source jsonl" in str(done.stdout)


@pytest.mark.slow
def test_a_path_that_the_locale_lacks_is_named_with_a_remedy(tmp_path: Path) -> None:
    nodes = [
        "read: {source: jsonl, with: {path: in-é.jsonl}}",
        "look: {transform: enrich, with: {file: é.csv, key: id}}",
        "keep: {sink: jsonl, with: {path: é.jsonl}}",
        "many: {sink: files, with: {path: é}}",
        "table: {sink: duckdb, with: {path: é.duckdb, table: t}}",
        "bucket: {sink: s3, with: {path: s3://b/é}}",
        "files: {source: files, with: {pattern: [a.txt, é.txt]}}",
    ]
    pipelines = "".join(f"      {node}\n" for node in nodes).replace(
        "      files", "  b:\n    nodes:\n      files"
    )
    text = f"version: 1\npipelines:\n  a:\n    nodes:\n{pipelines}      show: {{sink: stdout}}\n"
    (tmp_path / "pipelines.yaml").write_text(text, encoding="utf-8")
    done = odw(tmp_path, "validate", env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert done.returncode == ExitCode.USAGE
    named = [line.split(":")[1] for line in done.stderr.splitlines() if "LC_ALL=C.UTF-8" in line]
    assert named == ["5", "6", "7", "8", "9", "13"], done.stderr


@pytest.mark.slow
def test_a_port_that_is_taken_is_reported_with_what_helps(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = odw(tmp_path, "serve", "--port", str(port))
    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use. Choose another port; 0 "
        "picks a free one\n"
    )


@pytest.mark.slow
def test_a_sandbox_without_a_state_directory_reports_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = odw(tmp_path, "sandbox", "--state-dir", "file", "--services", "ingest", input="")
    assert done.returncode == ExitCode.ENVIRONMENT
    assert done.stderr.startswith("sandbox: ")
    assert "Not a directory" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the reader is held up by a named pipe")
def test_resume_names_older_unfinished_runs(tmp_path: Path) -> None:
    (tmp_path / "pipelines.yaml").write_text(LONG, encoding="utf-8")
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n', encoding="utf-8")
    os.mkfifo(tmp_path / "out.jsonl")  # opening it for writing waits for a reader that never comes
    held = subprocess.Popen(
        [sys.executable, "-m", "engine", "run", "--only", "first", "--log-format", "json"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert held.stderr is not None
    with held.stderr:
        run_id = json.loads(held.stderr.readline())["run"]
        held.send_signal(signal.SIGKILL)
        held.wait(PATIENCE)
    assert odw(tmp_path, "run", "--only", "second", "--quiet").returncode == 0
    done = odw(tmp_path, "run", "--resume")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "nothing to resume: every run of the latest invocation has completed\nunfinished earlier run: "
        f"{run_id} (odw run --resume {run_id})\n"
    )


def test_the_garbage_collector_is_unchanged() -> None:
    async def nothing() -> int:
        return 0

    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    assert on_event_loop(nothing) == 0
    assert gc.get_threshold() == thresholds
    assert gc.get_freeze_count() <= frozen
