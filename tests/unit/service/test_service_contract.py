"""Both generations of the contract's routes: triggers, workflows, page views, topics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from connectors.models import INGEST_MODELS
from engine.service.app import create_app
from engine.service.auth import hash_of
from engine.service.context import ServiceContext
from engine.service.operations import HostedRun, RunStartError, RunState, StartedRun
from engine.service.settings import ServiceSettings
from engine.service.topics import create_topic_app
from engine.service.warehouse import Warehouse
from engine.service.workflows import duration_text, parameters_of
from tests.servers.kept_warehouse import Opening

BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ADMIN = {"Authorization": "Bearer aa.bb"}
KNOWN = ("batch_size", "fail_percentage", "source_file_pattern", "processing_instructions")


class Host:
    """Starts nothing, and remembers what was asked for."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, str]]] = []

    def parameters(self, name: str) -> Collection[str] | None:
        return KNOWN if name in ("extract-blob", "blob-workflow") else None

    async def start(self, name: str, params: Mapping[str, str]) -> StartedRun:
        if params.get("batch_size") == "none":
            raise RunStartError("expected an integer", is_callers=True)
        if params.get("batch_size") == "0":
            raise RunStartError("the state store is away")
        self.started.append((name, dict(params)))
        return StartedRun("blobs", "blob-workflow", "r1", params)

    async def list_runs(self, limit: int, states: Collection[RunState] = ()) -> list[HostedRun]:
        runs = [
            HostedRun("blobs", "blob-workflow", "r3", "RUNNING", BEGAN, None),
            HostedRun("logs", "logs-workflow", "r2", "FAILED", BEGAN, BEGAN + timedelta(seconds=123)),
            HostedRun(
                "events", "events-workflow", "r1", "COMPLETED", BEGAN, BEGAN + timedelta(milliseconds=120)
            ),
        ]
        return [run for run in runs if not states or run.state in states][:limit]

    async def terminate(self, name: str) -> HostedRun | None:
        return HostedRun("blobs", name, "r3", "RUNNING", BEGAN, None) if name == "blob-workflow" else None


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
async def context(open_warehouse: Opening, tmp_path: Path, host: Host) -> AsyncIterator[ServiceContext]:
    warehouse = open_warehouse(tmp_path / "warehouse.duckdb", INGEST_MODELS)
    settings = ServiceSettings(admin_api_key=hash_of("aa.bb"))
    yield create_app(warehouse, INGEST_MODELS, settings, host).state.context
    await asyncio.to_thread(warehouse.close)


@pytest.fixture
async def client(context: ServiceContext, host: Host) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(context.warehouse, INGEST_MODELS, context.settings, host)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


def event(number: int, day: str, **changes: Any) -> dict[str, Any]:
    plain = {
        "event_name": "pageview",
        "timestamp": f"{day}T10:00:00+00:00",
        "distinct_id": "u1",
        "project_id": "p",
    }
    return {"id": f"e{number}", **plain, **changes}


@pytest.mark.slow
@pytest.mark.parametrize("url", ["/consumption/extract-blob", "/api/extract-blob", "/api/extract-blob/1.0"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_trigger_starts_a_run(client: httpx.AsyncClient, host: Host, url: str, method: str) -> None:
    answer = await client.request(method, f"{url}?batch_size=50&fail_percentage=20&tag=Blob&other=1")
    assert (answer.status_code, answer.json()["run_id"], answer.json()["success"]) == (200, "r1", True)
    assert host.started == [("extract-blob", {"batch_size": "50", "fail_percentage": "20"})]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "status"), [("none", 400), ("0", 500)])
async def test_a_failure_to_start_is_a_failure(
    client: httpx.AsyncClient, size: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get(f"/consumption/extract-blob?batch_size={size}")
    assert (answer.status_code, answer.json()["success"]) == (status, False)
    assert len(caplog.records) == (status == 500)


@pytest.mark.slow
async def test_a_trigger_takes_parameters_of_a_body(client: httpx.AsyncClient, host: Host) -> None:
    url = "/consumption/extract-blob?batch_size=3&fail_percentage=1"
    assert (await client.post(url, json={"batch_size": 7, "other": 1, "fail_percentage": None})).json()[
        "success"
    ]
    assert host.started == [("extract-blob", {"batch_size": "7", "fail_percentage": "1"})]
    refused = await client.post(url, content=b"[1]")
    assert (refused.status_code, refused.json()["success"]) == (400, False)


@pytest.mark.slow
async def test_looking_at_a_trigger_starts_nothing(client: httpx.AsyncClient, host: Host) -> None:
    assert (await client.head("/consumption/extract-blob")).status_code == 405
    assert (await client.options("/consumption/extract-blob")).status_code == 200
    foreign = await client.get("/consumption/extract-blob", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert host.started == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (b"batch_size=5", {"batch_size": "5"}),
        (b"batch_size=&fail_percentage=1", {"fail_percentage": "1"}),
        (b"batch_size=5&batch_size=6", {"batch_size": "6"}),
        (b"unknown=1&tag=x", {}),
        (b"batch_size=5&unknown=1", {"batch_size": "5"}),
        (b"source_file_pattern=s3://b/a+b/*.txt", {"source_file_pattern": "s3://b/a+b/*.txt"}),
        (
            b"source_file_pattern=s3://b/a&b/**&batch_size=5",
            {"source_file_pattern": "s3://b/a&b/**", "batch_size": "5"},
        ),
        (b"source_file_pattern=s3://b/a%20b%23c.txt", {"source_file_pattern": "s3://b/a b#c.txt"}),
        (b"source_file_pattern=s3%3A%2F%2Fb%2Fa+b%2Bc", {"source_file_pattern": "s3://b/a b+c"}),
        (
            b"processing_instructions=Read%20%26%20note%20a%2Bb",
            {"processing_instructions": "Read & note a+b"},
        ),
        (b"source_file_pattern=s3://b/{a,b}&tag=x", {"source_file_pattern": "s3://b/{a,b}"}),
        (b"processing_instructions=\xff%FF", {"processing_instructions": "\xff\ufffd"}),
        (b"&&=&=x", {}),
    ],
)
def test_parameters_keep_what_patterns_hold(query: bytes, found: dict[str, str]) -> None:
    assert parameters_of(query, KNOWN) == found


@pytest.mark.slow
async def test_workflows_are_a_bare_array_in_the_originals_words(client: httpx.AsyncClient) -> None:
    rows = (await client.get("/workflows/list")).json()
    assert rows == [
        {
            "name": "blob-workflow",
            "run_id": "r3",
            "status": "WORKFLOW_EXECUTION_STATUS_RUNNING",
            "started_at": "2026-01-02 03:04:05.678901 UTC",
            "duration": "-",
        },
        {**rows[1], "run_id": "r2", "status": "WORKFLOW_EXECUTION_STATUS_FAILED", "duration": "2m 3s"},
        {**rows[2], "run_id": "r1", "status": "WORKFLOW_EXECUTION_STATUS_COMPLETED", "duration": "120ms"},
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "runs"),
    [
        ("status=running", ["r3"]),
        ("status=completed", ["r1"]),
        ("status=failed", ["r2"]),
        ("status=odd", ["r3", "r2", "r1"]),
        ("limit=1", ["r3"]),
        ("limit=none", ["r3", "r2", "r1"]),
        ("limit=-1", ["r3", "r2", "r1"]),
        ("limit=" + "9" * 5000, ["r3", "r2", "r1"]),
    ],
)
async def test_workflows_always_answer(client: httpx.AsyncClient, query: str, runs: list[str]) -> None:
    answer = await client.get(f"/workflows/list?{query}")
    assert (answer.status_code, [row["run_id"] for row in answer.json()]) == (200, runs)


@pytest.mark.slow
async def test_without_pipelines_there_are_no_workflows(path: Path) -> None:
    warehouse = await asyncio.to_thread(Warehouse.open, path, INGEST_MODELS)
    transport = httpx.ASGITransport(app=create_app(warehouse, INGEST_MODELS))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/workflows/list")).json() == []
        assert (await client.get("/consumption/extract-blob")).status_code == 404
        assert (await client.post("/admin/workflows/blob-workflow/trigger", headers=ADMIN)).status_code == 401
    await asyncio.to_thread(warehouse.close)


@pytest.mark.slow
async def test_the_admin_routes_need_their_own_key(client: httpx.AsyncClient, host: Host) -> None:
    assert (await client.get("/admin/workflows/history")).status_code == 401
    assert len((await client.get("/admin/workflows/history", headers=ADMIN)).json()) == 3
    url = "/admin/workflows/blob-workflow"
    assert (await client.post(f"{url}/trigger")).status_code == 401
    started = await client.post(f"{url}/trigger", headers=ADMIN, json={"batch_size": 7, "other": 1})
    assert started.json() == {"workflowId": "blob-workflow", "runId": "r1"}
    assert host.started == [("blob-workflow", {"batch_size": "7"})]
    assert (await client.post(f"{url}/terminate", headers=ADMIN)).json()["runId"] == "r3"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("nothing/trigger", b""),
        ("nothing/terminate", b""),
        ("blob-workflow/trigger", b"["),
        ("blob-workflow/trigger", b"[]"),
        ("blob-workflow/trigger", b'{"batch_size": "none"}'),
    ],
)
async def test_admin_errors_say_what_and_why(client: httpx.AsyncClient, url: str, body: bytes) -> None:
    answer = await client.post(f"/admin/workflows/{url}", headers=ADMIN, content=body)
    assert (answer.status_code, set(answer.json())) == (400, {"error", "details"})


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (120, "120ms"),
        (999, "999ms"),
        (5_400, "5s"),
        (123_000, "2m 3s"),
        (3_723_000, "1h 2m 3s"),
        (-5, "0ms"),
    ],
)
def test_durations_read_as_the_original_writes_them(milliseconds: int, text: str) -> None:
    assert duration_text(timedelta(milliseconds=milliseconds)) == text


@pytest.mark.slow
@pytest.mark.parametrize("route", ["/consumption", "/api"])
async def test_page_views_are_counted_by_day(client: httpx.AsyncClient, route: str) -> None:
    today = datetime.now(UTC).date()
    before, long_ago = today - timedelta(days=1), today - timedelta(days=30)
    events = [
        event(1, f"{today}"),
        event(2, f"{today}", distinct_id="u2"),
        event(3, f"{today}"),
        event(4, f"{today}", event_name="click"),
        event(5, f"{before}", timestamp=f"{today}T01:00:00+05:00"),
        event(6, f"{long_ago}"),
        event(7, f"{today}", timestamp="yesterday"),
    ]
    await client.post("/ingest/EventSource", json=events)
    await client.post("/ingest/EventSource", json=events[:1])  # once more: a dirty table
    page = (await client.get(f"{route}/getDailyPageViews?days_back=14&limit=14")).json()
    assert page == {
        "items": [
            {"view_date": f"{today}", "total_pageviews": 3, "unique_visitors": 2},
            {"view_date": f"{before}", "total_pageviews": 1, "unique_visitors": 1},
        ],
        "total": 2,
    }
    assert list(page["items"][0]) == ["view_date", "total_pageviews", "unique_visitors"]
    assert (await client.get(f"{route}/getDailyPageViews")).json()["total"] == 3
    assert (await client.get(f"{route}/getDailyPageViews?days_back=x")).status_code == 400
    assert (await client.get(f"{route}/getDailyPageViews?days_back=999999999")).status_code == 400


@pytest.mark.slow
async def test_an_unknown_api_is_404_in_each_generations_words(client: httpx.AsyncClient) -> None:
    old, new = await client.get("/consumption/getNothing"), await client.get("/api/getNothing")
    assert (old.status_code, old.text) == (404, "Consumption API not found.")
    assert (new.status_code, "error" in new.json()) == (404, True)


@pytest.mark.slow
async def test_medical_paths_can_be_opened(client: httpx.AsyncClient) -> None:
    names = (
        "patient_name",
        "patient_age",
        "phone_number",
        "scheduled_appointment_date",
        "dental_procedure_name",
    )
    row = dict.fromkeys([*names, "doctor", "transform_timestamp"], "x")
    paths = {"a": "minio://b/memos/1.txt", "b": "s3://b/memos/2.txt", "c": "https://host/3.txt"}
    rows = [{"id": key, "source_file_path": path, **row} for key, path in paths.items()]
    await client.post("/ingest/Medical", json=rows)
    items = (await client.get("/consumption/getMedical?limit=100")).json()["items"]
    assert {item["id"]: item["source_file_path"] for item in items} == {
        "a": "s3://b/memos/1.txt",
        "b": "s3://b/memos/2.txt",
        "c": "https://host/3.txt",
    }
    assert {item["id"]: item["source_uri"] for item in items} == paths
    found = (await client.get("/consumption/getMedical?source_file_path=minio://b")).json()["items"]
    assert [item["id"] for item in found] == ["a"]


@pytest.mark.slow
async def test_topics_hold_the_dead_letters_of_a_model(
    client: httpx.AsyncClient, context: ServiceContext
) -> None:
    log = {"timestamp": "t", "level": "LOUD", "message": "m", "n": 2**80}
    for number in range(3):
        await client.post("/ingest/LogSource", json={"id": f"l{number}", **log})
    transport = httpx.ASGITransport(app=create_topic_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as viewer:
        path = "/topic/LogSourceDeadLetterQueue/messages"
        messages = (await viewer.get(f"{path}?partition=0&offset=0&count=100&isAnyProto=false")).json()
        assert [(one["partition"], one["offset"]) for one in messages] == [(0, 0), (0, 1), (0, 2)]
        content = orjson.loads(messages[0]["message"])
        assert content["original_record"]["level"] == "LOUD"
        assert str(2**80) in messages[0]["message"]
        assert {"error_message", "error_type", "failed_at"} <= set(content)
        later = (await viewer.get(f"{path}?offset=2&count=100")).json()
        assert [orjson.loads(one["message"])["original_record"]["id"] for one in later] == ["l2"]
        for other in ("/topic/NoneDeadLetterQueue/messages", "/topic/LogSource/messages", f"{path}?offset=3"):
            assert (await viewer.get(other)).json() == []
        assert (await viewer.get(f"{path}?offset=x")).status_code == 400
        assert (await viewer.get(path, headers={"Host": "evil.example"})).status_code == 403


@pytest.mark.slow
async def test_the_root_says_what_is_served(client: httpx.AsyncClient) -> None:
    status = (await client.get("/")).json()
    assert status["status"] == "ready"
    assert "BlobSource" in status["ingest"]
    assert "getBlobs" in status["consumption"]


@pytest.mark.slow
async def test_metrics_count_what_was_done(client: httpx.AsyncClient) -> None:
    log = {"timestamp": "t", "level": "INFO", "message": "m"}
    body = [{"id": "a", **log}, {"id": "b", **log, "message": "[DLQ] m"}, {"id": "c"}]
    await client.post("/ingest/LogSource", json=body, headers={"X-ODW-Results": "per-record"})
    await client.post("/ingest/LogSource", content=b"{")
    lines = (await client.get("/metrics")).text.splitlines()
    for line in (
        'odw_ingest_requests_total{model="LogSource",status="200"} 1',
        'odw_ingest_requests_total{model="LogSource",status="400"} 1',
        'odw_rows_written_total{model="LogSource"} 1',
        'odw_rows_written_total{model="BlobSource"} 0',
        'odw_dead_letters_total{model="LogSource",source="table"} 0',
        'odw_dead_letters_total{model="LogSource",source="api"} 1',
        'odw_dead_letters_total{model="LogSource",source="transform"} 1',
        "odw_ingest_ready 1",
        "odw_queued_requests 0",
        "# TYPE odw_rows_written_total counter",
    ):
        assert line in lines


@pytest.mark.slow
async def test_every_documented_path_is_served(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = await client.request(method, path, content=b"[]" if method == "post" else None)
            assert str(answer.status_code) in operation["responses"], (path, answer.text)
            kinds = operation["responses"][str(answer.status_code)]["content"]
            assert answer.headers["content-type"].partition(";")[0] in kinds, path


@pytest.mark.slow
@pytest.mark.parametrize(
    "query", ["limit=-1", "limit=x", "offset=" + "9" * 30, "limit=1&offset=1&level=INFO"]
)
async def test_every_documented_read_answers_as_documented(client: httpx.AsyncClient, query: str) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        if "get" in operations:
            answer = await client.get(f"{path}?{query}")
            assert str(answer.status_code) in operations["get"]["responses"], (path, answer.status_code)
