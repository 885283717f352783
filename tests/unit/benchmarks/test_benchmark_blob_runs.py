"""The main job's process arm, against a stand-in for the engine's command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import blob_runs, engine_commands
from benchmarks.blob_runs import blob_run, check
from benchmarks.engine_commands import PipelineReport, missing, needs, serving
from benchmarks.process import process_cpu, run_command

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="process arms read Linux's process accounting"
)

STAND_IN = """
import argparse, json, os, sys, urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

class Service(BaseHTTPRequestHandler):
    rows = 0
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"items": [], "total": Service.rows}).encode())
    def do_POST(self):
        Service.rows = int(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()
    def log_message(self, *arguments):
        pass

parser = argparse.ArgumentParser()
parser.add_argument("verb", choices=["serve", "run"])
parser.add_argument("file", nargs="?")
for option in ("port", "state-dir", "only", "param", "report"):
    parser.add_argument("--" + option)
arguments = parser.parse_args()
if arguments.verb == "serve":
    if LOSES == "start":
        sys.exit("no room on the disk")
    HTTPServer(("127.0.0.1", int(arguments.port)), Service).serve_forever()
name, _, count = arguments.param.partition("=")
assert (arguments.only, name) == ("blobs", "blobs.batch_size")
read = int(count)
written = read - (LOSES == "report")
body = str(read - (LOSES == "row")).encode()
urllib.request.urlopen(urllib.request.Request(os.environ["INGEST_URL"], data=body), timeout=300).close()
tally = {"read": read, "written": written, "dropped": 0, "dead": 0}
with open(arguments.report, "w") as file:
    json.dump({"pipelines": {"blobs": {"status": "completed", "seconds": 2.0, "tally": tally}}}, file)
"""


@pytest.fixture
def loses(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "nothing"))


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses: str) -> Iterator[None]:
    script = tmp_path / "stand_in.py"
    script.write_text(f"LOSES = {json.dumps(loses)}\n{STAND_IN}")

    def engine(*arguments: str) -> list[str]:
        return [sys.executable, "-I", str(script), *arguments]

    monkeypatch.setattr(blob_runs, "engine", engine)
    monkeypatch.setattr(engine_commands, "engine", engine)
    missing.cache_clear()
    yield
    missing.cache_clear()


@pytest.mark.slow
def test_blob_run_gives_a_rate_and_a_checksum() -> None:
    _, work = run_command(blob_run(500))
    assert (work.count, work.figures["rate"]) == (500, 250.0)
    assert work.figures["service_cpu"] >= 0
    _, larger = run_command(blob_run(900))
    assert larger.checksum == work.checksum is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loses", "message"),
    [("row", "499 rows are served, 500 were sent"), ("report", "'written': 499")],
    indirect=["loses"],
)
def test_a_lost_record_fails_the_sample(loses: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_command(blob_run(500))


@pytest.mark.slow
def test_the_service_is_gone_afterwards(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert process_cpu(service.pid) >= 0
    with pytest.raises(FileNotFoundError):
        process_cpu(service.pid)


@pytest.mark.slow
@pytest.mark.parametrize("loses", ["start"], indirect=True)
def test_a_service_that_does_not_start_says_why(tmp_path: Path, loses: str) -> None:
    with pytest.raises(RuntimeError, match="did not start: no room on the disk"):
        with serving(tmp_path):
            pass


@pytest.mark.slow
def test_a_verb_that_does_not_run_is_named_with_the_reason() -> None:
    assert needs("run", pipelines=False)() is None
    reason = needs("run", "fly", pipelines=False)()
    assert reason is not None
    assert reason.startswith("`python -m engine fly` does not run:")
    assert "invalid choice: 'fly'" in reason


@pytest.mark.parametrize(
    ("status", "written", "dead"),
    [("failed", 10, 0), ("completed", 9, 0), ("completed", 9, 1), ("completed", 11, 0)],
)
def test_only_a_complete_run_counts(status: str, written: int, dead: int) -> None:
    report: PipelineReport = {
        "status": status,
        "seconds": 1.0,
        "tally": {"read": 10, "written": written, "dropped": 0, "dead": dead},
    }
    with pytest.raises(ValueError, match=status):
        check(report, 10)
