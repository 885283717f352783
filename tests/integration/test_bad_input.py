"""Bad input and failing services, from YAML to the message for the user.

Each test goes through the real runner, and where the message is one of the command line, through that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import engine
from connectors.models import INGEST_MODELS
from engine.contract.dead_letter import DeadLetter
from engine.errors import StateFullError
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.llm.injected_errors import Fault, OmitSlot, SwapSlots
from engine.service.server import running_service, serving_app
from engine.state.records import DeadLetterFilter, RunStatus
from engine.state.sqlite import SqliteStateStore
from engine.state.store import StateStore
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url
from tests.series import few

ROOT = Path(__file__).parents[2]
KEY = "key-of-the-stand-in"
HEAD = "version: 1\npipelines:\n  p:\n    nodes:\n"


def run_cli(*arguments: str, cwd: Path, script: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", script] if script else ["-m", "engine"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def blob(number: int, **changes: object) -> dict[str, object]:
    return {
        "id": f"b{number}",
        "bucket_name": "bucket",
        "file_path": "/a/",
        "file_name": "report.txt",
        "file_size": 300,
        "permissions": ["READ"],
        "content_type": None,
        "ingested_at": "2026-01-01T00:00:00+00:00",
    } | changes


def lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def ingest_pipeline(
    folder: Path, url: str, records: list[dict[str, object]] | int, *, attempts: int = 2, **more: object
) -> Path:
    """Records (a number of them: new ones) into `ingest`, in batches of 100; `more` are its parameters."""
    if isinstance(records, int):
        source = f"source: blob, with: {{records: {records}}}"
    else:
        path = lines(folder / "in.jsonl", records)
        source = f"source: jsonl, with: {{path: {path}, page_records: 100}}"
    params = "".join(f", {name}: {value}" for name, value in more.items())
    file = folder / "p.yaml"
    file.write_text(
        f'version: 1\nconnections: {{warehouse: {{url: "{url}"}}}}\n'
        "pipelines:\n  p:\n    outage_limit: 0.2\n    nodes:\n"
        f"      read: {{{source}}}\n"
        f"      load: {{sink: ingest, retry: {{attempts: {attempts}, base: 0.01}},\n"
        f"        with: {{connection: warehouse, model: BlobSource, records: 100{params}}}}}\n"
    )
    return file


async def run(file: Path) -> tuple[engine.RunReport, list[DeadLetter]]:
    """The report of pipeline `p`, and its dead letters."""
    async with engine.Engine() as owner:
        report = (await engine.run(file, engine=owner))["p"]
        letters = await owner.store.dead_letters(DeadLetterFilter())
    return report, letters


@contextmanager
def page_limit(store: StateStore, more: int) -> Iterator[None]:
    """Limit the growth of the store's file to this many pages, as on a nearly full disk."""
    assert isinstance(store, SqliteStateStore)
    connection = store._database._connection  # type: ignore[attr-defined]
    assert connection is not None
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + more}")
    try:
        yield
    finally:
        connection.execute("PRAGMA max_page_count = 1000000")


async def rows(url: str, api: str = "getBlobs") -> list[dict[str, Any]]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/consumption/{api}", params={"limit": "10000"})
        return answer.json()["items"]  # type: ignore[no-any-return]


# --- the file


WRONG_FILES = {
    "a tab": (
        "version: 1\npipelines:\n\tp: {}\n",
        "p.yaml:3:1: tabs are not allowed for indentation; use spaces",
    ),
    "an unknown key": (
        HEAD + "      a: {source: blob, with: {recrods: 5}}\n      b: {sink: stdout}\n",
        "p.yaml:5:32: pipelines.p.nodes.a.with.recrods: unknown key `recrods`, did you mean `records`?",
    ),
    "a cycle": (
        HEAD
        + "      a: {source: blob}\n"
        + "      b: {transform: simulate_failures, input: [a, c]}\n"
        + "      c: {transform: simulate_failures, input: b}\n"
        + "      d: {sink: stdout, input: c}\n",
        "the nodes form a cycle: `b` → `c` → `b`",
    ),
    "a wrong type": (
        HEAD + "      a: {source: blob, with: {records: many}}\n      b: {sink: stdout}\n",
        "p.yaml:5:41: pipelines.p.nodes.a.with.records: expected a valid integer, got 'many'",
    ),
    "an unset variable": (
        HEAD
        + '      a: {source: jsonl, with: {path: "${NOT_SET:?name it}"}}\n'
        + "      b: {sink: stdout}\n",
        "p.yaml:5:39: pipelines.p.nodes.a.with.path: environment variable `NOT_SET` is not set: name it",
    ),
}


@pytest.mark.parametrize("verb", few(["run", "validate"], 1))
@pytest.mark.parametrize(("text", "message"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_invalid_file_is_refused_with_its_place_before_starting(
    tmp_path: Path, verb: str, text: str, message: str
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    done = run_cli(verb, "p.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".odw").exists()


# --- the ingest service


def test_unreachable_ingest_url_is_an_outage_without_dead_letters(
    tmp_path: Path,
) -> None:
    url = unused_url()
    ingest_pipeline(tmp_path, url, [blob(number) for number in range(250)])

    done = run_cli("run", "p.yaml", "--state-dir", "state", "--report", "report.json", cwd=tmp_path)

    assert done.returncode == 5
    assert f"no ingest service is listening at {url}" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())["pipelines"]["p"]
    assert report["status"] == "outage"
    assert (report["tally"]["written"], report["tally"]["dead"]) == (0, 0)
    assert "--resume" in done.stdout


@pytest.mark.slow
async def test_of_five_hundred_records_the_bad_one_dies_and_499_arrive(tmp_path: Path) -> None:
    records = [blob(number) for number in range(500)]
    records[123] = blob(123, file_size="not a number")
    async with running_service(tmp_path / "service", models=INGEST_MODELS) as service:
        report, letters = await run(ingest_pipeline(tmp_path, service.url, records))
        found = await rows(service.url)
    assert report.status is RunStatus.COMPLETED
    assert (report.tally.read, report.tally.written, report.tally.dead) == (500, 499, 1)
    assert {row["id"] for row in found} == {f"b{number}" for number in range(500) if number != 123}
    assert len(found) == 499
    (letter,) = letters
    assert letter.record == records[123]
    assert "file_size" in letter.error_message


@pytest.mark.slow
async def test_two_503_and_then_200_lose_nothing_and_bring_nothing_twice(tmp_path: Path) -> None:
    records = [blob(number) for number in range(500)]
    async with running_service(tmp_path / "service", models=INGEST_MODELS) as service:
        async with httpx.AsyncClient() as client:

            async def busy_twice(request: Request) -> Answer:
                if len(server.requests) <= 2:
                    return Answer(503, b"busy", {"retry-after": "0"})
                headers = {name: value for name, value in request.headers.items() if name != "host"}
                answer = await client.post(
                    f"{service.url}{request.path}", content=request.body, headers=headers
                )
                return Answer(answer.status_code, answer.content, {"content-type": "application/json"})

            server = ScriptedServer(busy_twice)
            async with server.running():
                file = ingest_pipeline(tmp_path, server.url, records, attempts=3, concurrency=1)
                report, letters = await run(file)
        found = await rows(service.url)
    assert report.status is RunStatus.COMPLETED
    assert (report.tally.written, report.tally.dead, letters) == (500, 0, [])
    assert sorted(row["id"] for row in found) == sorted(str(record["id"]) for record in records)
    # while one batch waits for its next try, the next one may be sent
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 5
    assert len(server.requests) == 5 + 2


def looking(visible_at: int | None) -> ScriptedServer:
    """A service whose rows can be seen from the given look on; None: never."""

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            return Answer.of({"written": len(request.json), "dead": [], "duplicate": False})
        if request.path == "/dead-letters":
            return Answer.of({"items": [], "total": 0})
        looks = sum(one.path == "/consumption/getBlobs" for one in server.requests)
        if visible_at is None or looks < visible_at:
            return Answer.of({"items": [], "total": 0})
        return Answer.of({"items": [{"id": f"b{number}"} for number in range(3)], "total": 3})

    server = ScriptedServer(answer)
    return server


@pytest.mark.slow
async def test_rows_that_are_visible_at_the_third_look_are_written(tmp_path: Path) -> None:
    async with looking(3).running() as server:
        file = ingest_pipeline(
            tmp_path, server.url, [blob(number) for number in range(3)],
            confirm="visible", confirm_timeout=300, confirm_interval=0.01,
        )  # fmt: skip
        report, letters = await run(file)
    assert report.status is RunStatus.COMPLETED
    assert (report.tally.written, report.tally.accepted, letters) == (3, 0, [])
    looks = [one for one in server.requests if one.path == "/consumption/getBlobs"]
    assert len(looks) == 3
    assert sum(one.method == "POST" for one in server.requests) == 1


@pytest.mark.slow
async def test_rows_that_are_never_visible_stop_the_run_to_be_resumed(tmp_path: Path) -> None:
    async with looking(None).running() as server:
        file = ingest_pipeline(tmp_path, server.url, 3, confirm="visible", confirm_timeout=0.05)
        report, letters = await run(file)
    assert report.status is RunStatus.OUTAGE
    assert "acknowledged but not visible at /consumption/getBlobs within 0.05 s" in report.error
    assert (report.tally.written, report.tally.dead, letters) == (0, 0, [])
    deliveries = [one.headers["x-odw-delivery"] for one in server.requests if one.method == "POST"]
    assert deliveries[0] == "fresh"
    assert set(deliveries[1:]) == {"replay"}, "what may be there has to be replaced, not added to"


# --- the state directory


def state_pipeline(folder: Path, broken: int = 0) -> None:
    """`jsonl` into a file; broken lines become dead letters of 50 kB."""
    text = "".join('{"a": "' + "x" * 50_000 + "\n" for _ in range(broken))
    (folder / "in.jsonl").write_text('{"a": 1}\n' + text)
    (folder / "p.yaml").write_text(
        HEAD
        + f"      read: {{source: jsonl, with: {{path: {folder}/in.jsonl, page_records: 5}}}}\n"
        + f"      load: {{sink: jsonl, with: {{path: {folder}/out.jsonl}}}}\n"
        + "    dead_letters: {max: 100%}\n"
    )


@pytest.mark.parametrize(
    ("place", "why", "remedy"),
    [
        (
            "a file",
            "cannot create a file/state.sqlite3: a file is a file or inside one",
            "Name a directory with --state-dir",
        ),
        (
            "/proc/self/state",
            "cannot open /proc/self/state/state.sqlite3: ",
            "choose another directory with --state-dir",
        ),
    ],
    ids=["file", "not writable"],
)
def test_unwritable_state_directory_is_reported_before_reading(
    tmp_path: Path, place: str, why: str, remedy: str
) -> None:
    state_pipeline(tmp_path)
    (tmp_path / "a file").write_text("")  # root writes through permission bits, but not through this
    done = run_cli("run", "p.yaml", "--state-dir", place, cwd=tmp_path)
    assert done.returncode == 3
    assert why in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.slow
async def test_a_disk_that_fills_up_stops_the_run_resumably(tmp_path: Path) -> None:
    state_pipeline(tmp_path, broken=40)
    (plan,) = engine.load(tmp_path / "p.yaml").values()
    async with engine.Engine(state_dir=tmp_path / "state") as owner:
        with page_limit(owner.store, more=50):
            full = await owner.run(plan)
        assert full.status is RunStatus.FAILED
        assert isinstance(full.failure, StateFullError)
        assert "no space left for" in full.error
        assert "Free some space, then resume the run" in full.error
        assert full.tally.dead < 40

        again = await owner.run(plan, resume=await owner.store.get_run(full.run_id))
        letters = await owner.store.count_dead_letters(DeadLetterFilter())
    assert again.status is RunStatus.COMPLETED, again.error
    assert again.tally.balanced
    assert (again.tally.read, again.tally.dead, letters) == (41, 40, 40)


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
sys.argv = ["engine", *sys.argv[1:]]
runpy.run_module("engine", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no limits on file sizes to fill a disk with")
def test_full_disk_has_its_own_exit_code(tmp_path: Path) -> None:
    state_pipeline(tmp_path, broken=40)
    done = run_cli("run", "p.yaml", "--state-dir", "state", cwd=tmp_path, script=LIMITED)
    assert done.returncode == 3
    assert "state/state.sqlite3" in done.stdout
    assert "--resume" in done.stdout
    assert "Traceback" not in done.stderr


# --- the model


def memo(number: int) -> dict[str, object]:
    text = (
        f"Patient: Person {number}\nAge: {30 + number}\nPhone: 555-010{number}\n"
        f"Procedure: Root canal\nAppointment: 2025-05-0{number}\nDoctor: Dr. Number {number}\n"
    )
    return {
        "id": f"unstr_{number}",
        "source_file_path": f"s3://bucket/memo_{number}.txt",
        "extracted_data": text,
        "processing_instructions": None,
    }


def model_pipeline(folder: Path, url: str, key: str = KEY) -> Path:
    """`jsonl` through `llm_extract` into a file."""
    path = lines(folder / "memos.jsonl", [memo(number) for number in range(1, 5)])
    file = folder / "p.yaml"
    file.write_text(
        "version: 1\nconnections:\n"
        f'  model: {{base_url: "{url}/v1", api_key: "{key}", model: sandbox-extractor}}\n'
        "pipelines:\n  p:\n    outage_limit: 0.2\n    nodes:\n"
        f"      read: {{source: jsonl, with: {{path: {path}}}}}\n"
        "      extract:\n        transform: llm_extract\n        retry: {attempts: 2, base: 0.01}\n"
        "        with: {connection: model, schema: Medical}\n"
        f"      load: {{sink: jsonl, with: {{path: {folder}/medical.jsonl}}}}\n"
    )
    return file


@pytest.mark.slow
async def test_a_wrong_key_of_the_model_stops_the_run_and_is_not_shown(tmp_path: Path) -> None:
    async with serving_app(LlmStandIn(api_key=KEY).app) as url:
        report, letters = await run(model_pipeline(tmp_path, url, key="sk-hush-hush"))
    assert report.status is RunStatus.FAILED
    assert "node 'extract' failed" in report.error
    assert "the API key is missing, wrong or not allowed to use 'sandbox-extractor'" in report.error
    assert "hush" not in report.error
    assert (report.tally.written, report.tally.dead, letters) == (0, 0, [])
    assert (tmp_path / "medical.jsonl").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "calls"),
    [(OmitSlot("r2"), 2), (SwapSlots("r1", "r3"), 1)],
    ids=["one slot is left out", "two slots are swapped"],
)
async def test_a_model_that_mixes_up_its_answers_costs_no_record(
    tmp_path: Path, fault: Fault, calls: int
) -> None:
    model = LlmStandIn(api_key=KEY, faults=[fault])
    async with serving_app(model.app) as url:
        report, letters = await run(model_pipeline(tmp_path, url))
    assert report.status is RunStatus.COMPLETED
    assert (report.tally.written, report.tally.dead, letters) == (4, 0, [])
    assert model.stats.calls == calls
    medical = [json.loads(line) for line in (tmp_path / "medical.jsonl").read_text().splitlines()]
    assert {row["id"]: row["patient_name"] for row in medical} == {
        f"unstr_{number}": f"Person {number}" for number in range(1, 5)
    }


# --- connections


@pytest.mark.parametrize(
    ("fields", "node"),
    [
        ('url: "http://warehouse.example:4200", token: sandbox', "sink: ingest, with: {model: BlobSource}"),
        # what the verb `sandbox` says about the model endpoint that it serves
        ('base_url: "http://127.0.0.1:4000/v1", api_key: sandbox', "transform: llm_extract"),
    ],
)
def test_given_address_wins_over_the_other_fields(tmp_path: Path, fields: str, node: str) -> None:
    (tmp_path / "p.yaml").write_text(
        f"version: 1\nconnections: {{outside: {{{fields}}}}}\npipelines:\n  p:\n    nodes:\n"
        f"      read: {{source: blob}}\n      there: {{{node}}}\n      load: {{sink: stdout}}\n"
    )
    (plan,) = engine.load(tmp_path / "p.yaml").values()
    assert plan.sandbox_services == frozenset()
