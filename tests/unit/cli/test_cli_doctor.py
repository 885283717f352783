"""`doctor`: problems and their remedies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from connectors.http.connection import HttpConnection
from connectors.llm import extract
from connectors.llm.settings import LlmConnection
from connectors.postgres.database import PostgresConnection
from connectors.s3.client import S3Connection
from engine.cli import main
from engine.cli.checkup.connections import credentials_of
from engine.cli.checkup.findings import Level
from engine.cli.checkup.network import address_of, ask, clock
from engine.errors import FatalError

FILE = """\
version: 1
connections: {{warehouse: {{url: "{url}", token: s3cr3t-token}}}}
pipelines:
  copy:
    nodes:
      read: {{source: jsonl, with: {{path: "{path}"}}}}
      load: {{sink: ingest, with: {{model: BlobSource}}}}
"""


class Service(BaseHTTPRequestHandler):
    """Says it is healthy to whoever has the token."""

    date = ""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer s3cr3t-token" or self.command == "HEAD"
        self.send_response_only(200 if allowed else 401)
        self.send_header("Date", self.date or self.date_time_string())
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b'{"healthy": []}' if allowed else b"{}")

    do_HEAD = do_GET  # noqa: N815 - the name is that of the standard library

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"n": 1}\n')


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--json", *arguments])
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] == (code == 0)
    assert "s3cr3t" not in json.dumps(document)
    return code, {one["about"]: one for one in document["findings"]}


@pytest.mark.slow
def test_doctor_reaches_a_service_with_its_token(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text(FILE.format(url=service, path="in.jsonl"))

    code, found = findings(capsys)

    assert code == 0
    assert found["connection warehouse"]["found"].startswith("the service is healthy")
    assert "token given" in found["connection warehouse"]["found"]
    assert found["copy.read"]["found"] == "can be listed, begins with in.jsonl"
    assert found["clock"]["level"] == "ok"
    assert not Path(".odw").exists()


def test_doctor_names_what_is_wrong_and_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text(FILE.format(url="http://127.0.0.1:9", path="gone/*.jsonl"))

    code, found = findings(capsys)

    assert code == 3
    connection = found["connection warehouse"]
    assert connection["level"] == "problem"
    assert "no service is listening at http://127.0.0.1:9" in connection["found"]
    assert connection["remedy"] == "start it, or correct the address"


@pytest.mark.parametrize(
    ("connection", "given"),
    [
        ("url: 'postgresql://me:s3cr3t@127.0.0.1:9/db'", "(password in `url` given)"),
        ("url: 'postgresql://127.0.0.1:9/db?user=me&password=s3cr3t'", "(password in `url` given)"),
        ("url: 'postgresql://me@127.0.0.1:9/db'", "(user in `url` given)"),
        ("url: 'postgresql://127.0.0.1:9/db?sslmode=disable'", "(no credentials in the file)"),
        ("{url: 'postgresql://me@127.0.0.1:9/db', password: s3cr3t}", "(password, user in `url` given)"),
    ],
)
def test_doctor_names_credentials_of_a_database(
    connection: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _said_of_connection("postgres, with: {table: t", connection, capsys).endswith(given)


@pytest.mark.parametrize(
    ("connection", "given"),
    [
        ("url: 'http://me:s3cr3t@127.0.0.1:9'", "(password in `url` given)"),
        ("url: 'http://127.0.0.1:9/?api_key=s3cr3t'", "(key in `url` given)"),
        ("url: 'http://127.0.0.1:9'", "(no credentials in the file)"),
    ],
)
def test_doctor_names_credentials_of_a_service(
    connection: str, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _said_of_connection("ingest, with: {model: BlobSource", connection, capsys).endswith(given)


def test_doctor_names_the_user_of_basic_authentication() -> None:
    connection = HttpConnection(url="http://127.0.0.1:9", user="me")

    assert credentials_of(connection) == ["user"]


def test_doctor_names_the_profile_of_a_bucket() -> None:
    assert credentials_of(S3Connection(profile="work")) == ["profile"]


def test_doctor_leaves_several_hosts_to_the_connector() -> None:
    assert address_of(PostgresConnection(url="postgresql://a:5432,b:5433/db")) == ""


def _said_of_connection(sink: str, connection: str, capsys: pytest.CaptureFixture[str]) -> str:
    connection = connection if connection.startswith("{") else f"{{{connection}}}"
    Path("pipelines.yaml").write_text(
        f"connections: {{there: {connection}}}\n"
        "pipelines: {copy: {nodes: {read: {source: jsonl, with: {path: in.jsonl}},\n"
        f"  load: {{sink: {sink}, connection: there}}}}}}}}}}\n"
    )
    return str(findings(capsys)[1]["connection there"]["found"])


def test_doctor_counts_an_invalid_file_as_its_problem(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text("version: 1\npipelines: {a: {nodes: {read: {sauce: jsonl}}}}\n")

    code, found = findings(capsys)

    assert code == 2
    assert "sauce" in found["file"]["found"]


def test_doctor_works_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = findings(capsys)

    assert code == 0
    assert found["file"]["level"] == "note"
    assert {"python", "extras", "state", "disk"} <= set(found)


def test_doctor_prints_remedies_below_findings(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text(FILE.format(url="http://127.0.0.1:9", path="in.jsonl"))

    assert main(["doctor"]) == 3
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("PROBLEM"))
    assert lines[at + 1].strip().startswith("→ ")
    assert lines[-1] == "1 problem"


def test_state_folder_that_is_a_file_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    Path("taken").write_text("")

    code, found = findings(capsys, "--state-dir", "taken")

    assert (code, found["state"]["level"]) == (3, "problem")


@pytest.mark.parametrize(
    ("skews", "level"),
    [
        ([], Level.NOTE),
        ([0.4, -2], Level.OK),
        ([120.0], Level.WARNING),
        ([-4000.0, -4001.0, 1], Level.PROBLEM),
    ],
)
def test_clock_is_judged_by_most_servers(skews: list[float], level: Level) -> None:
    assert [one.level for one in clock(skews)] == [level]


def test_an_address_without_credentials_is_shown() -> None:
    answer = ask("http://user:hidden@127.0.0.1:9/path", 1.0)

    assert not answer.reached
    assert "hidden" not in answer.found


MODELS = """\
version: 1
connections:
  model:
    base_url: sandbox
    endpoints: {{own: {{base_url: "{url}/v1", api_key: s3cr3t-token, model: big}}}}
pipelines:
  memos:
    nodes:
      read: {{source: jsonl, with: {{path: in.jsonl}}}}
      ask: {{transform: llm_extract, with: {{schema: Medical}}}}
      show: {{sink: stdout}}
"""


def test_doctor_reaches_every_endpoint_of_a_model_connection(
    service: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("pipelines.yaml").write_text(MODELS.format(url=service))
    asked: list[tuple[str, str]] = []

    async def answer(connection: LlmConnection, model: str, place: str = "") -> str:
        asked.append((connection.base_url, model))
        raise FatalError(f"{place}the endpoint refuses the key (status 401)")

    monkeypatch.setattr(extract, "check_endpoint", answer)
    code, found = findings(capsys)
    assert asked == [(f"{service}/v1", "big")]
    assert code == 3
    assert found["connection model"]["found"] == "endpoint 'own': the endpoint refuses the key (status 401)"
