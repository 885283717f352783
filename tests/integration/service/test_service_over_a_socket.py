"""The service over real HTTP: behaviour that needs a socket, a file and a process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from connectors.models import INGEST_MODELS
from engine.errors import ServiceError, StateError
from engine.service.discovery import ServiceAddress, find_running, service_file
from engine.service.server import RunningService, running_service, serve
from engine.service.settings import ServiceSettings
from tests.series import few

PER_RECORD = {"X-ODW-Results": "per-record", "X-ODW-Delivery": "fresh"}


def blob(identifier: str, name: str = "report.pdf") -> dict[str, object]:
    return {
        "id": identifier,
        "bucket_name": "b",
        "file_path": "/x/",
        "file_name": name,
        "file_size": 5,
        "permissions": ["READ", "WRITE"],
        "content_type": None,
        "ingested_at": "2026-11-23T10:00:00+00:00",
    }


@pytest.mark.slow
async def test_blobs_go_in_and_come_out_with_their_transform(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url) as client:
        answer = await client.post(
            "/ingest/BlobSource", json=[blob("a"), blob("b", "[DLQ]report.pdf")], headers=PER_RECORD
        )
        assert (answer.json()["written"], [dead["index"] for dead in answer.json()["dead"]]) == (1, [1])
        page = (await client.get("/consumption/getBlobs?tag=Blob")).json()
        letters = (await client.get("/dead-letters?model=BlobSource")).json()
    (item,) = page["items"]
    assert {key: item[key] for key in blob("a")} == blob("a")
    assert item["transform_timestamp"].endswith("+00:00")
    assert letters["items"][0]["original_record"] == blob("b", "[DLQ]report.pdf")


@pytest.mark.slow
@pytest.mark.parametrize("model", INGEST_MODELS, ids=lambda model: model.name)
async def test_every_model_of_the_project_is_served(service: RunningService, model: object) -> None:
    name = getattr(model, "name", "")
    async with httpx.AsyncClient(base_url=service.url) as client:
        assert (await client.post(f"/ingest/{name}", json=[])).text == "SUCCESS"
        assert (await client.post(f"/ingest/{name}", json={})).text.startswith(
            "Invalid JSON: Missing fields: id"
        )


@pytest.mark.slow
async def test_the_project_serves_all_five_reading_routes(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url) as client:
        for name in ("getBlobs", "getLogs", "getEvents", "getMedical", "getUnstructuredData"):
            assert (await client.get(f"/consumption/{name}")).json() == {"items": [], "total": 0}


@pytest.mark.slow
async def test_a_body_is_read_though_its_client_prefers_http_2(service: RunningService) -> None:
    asks = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAA"}
    async with httpx.AsyncClient(base_url=service.url) as client:
        for number in range(2):
            answer = await client.post(
                "/ingest/BlobSource", json=[blob(f"u{number}")], headers=PER_RECORD | asks
            )
            assert answer.json()["written"] == 1


@pytest.mark.slow
async def test_concurrent_requests_are_all_written_once(service: RunningService) -> None:
    async with httpx.AsyncClient(base_url=service.url) as client:
        answers = await asyncio.gather(
            *(
                client.post(
                    "/ingest/BlobSource",
                    json=[blob(f"{n % 20}-{i}") for i in range(10)],
                    headers=PER_RECORD | {"Idempotency-Key": f"key-{n % 20}"},
                )
                for n in range(40)
            )
        )
        assert sorted(answer.json()["duplicate"] for answer in answers) == [False] * 20 + [True] * 20
        assert {answer.json()["written"] for answer in answers} == {10}
        assert (await client.get("/consumption/getBlobs?limit=1")).json()["total"] == 200
    with service.warehouse.reading() as reader:
        assert reader.execute('SELECT count(*) FROM "Blob"').fetchall() == [(200,)]


@pytest.mark.slow
async def test_a_client_that_sends_too_much_still_gets_its_413(tmp_path: Path) -> None:
    settings = ServiceSettings(max_body_size=100_000)
    async with (
        running_service(tmp_path, models=INGEST_MODELS, settings=settings) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        answer = await client.post("/ingest/Blob", content=b" " * 350_000)
        assert (answer.status_code, answer.text) == (
            413,
            "Request body too large. Maximum size is 100000 bytes",
        )
        assert (await client.get("/health")).json()["unhealthy"] == []


@pytest.mark.slow
async def test_the_file_says_where_it_listens_for_as_long_as_it_does(tmp_path: Path) -> None:
    async with running_service(tmp_path, models=INGEST_MODELS) as service:
        said = json.loads(service_file(tmp_path).read_text())
        assert (said["url"], said["pid"], sorted(said["fields"])) == (
            service.url,
            os.getpid(),
            sorted(one.name for one in INGEST_MODELS),
        )
        assert await asyncio.to_thread(find_running, tmp_path) == ServiceAddress(service.url, os.getpid())
    assert not service_file(tmp_path).exists()
    assert find_running(tmp_path) is None
    assert [entry.name for entry in service_file(tmp_path).parent.iterdir()] == ["warehouse.duckdb"]


@pytest.mark.slow
async def test_second_service_is_refused_with_the_url_of_the_first(
    service: RunningService, tmp_path: Path
) -> None:
    with pytest.raises(ServiceError, match=f"already running with the state directory .*{service.url}"):
        await serve(tmp_path, port=0, models=INGEST_MODELS)
    assert (await asyncio.to_thread(find_running, tmp_path)) is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        '{"url": "http://127.0.0.1:9", "pid": 999999999}',
        f'{{"url": "http://127.0.0.1:9", "pid": {os.getpid()}}}',
        '{"url": 5}',
        "no json",
    ],
    ids=["dead process", "no answer", "incomplete", "broken"],
)
async def test_a_stale_file_is_ignored(tmp_path: Path, content: str) -> None:
    service_file(tmp_path).parent.mkdir(parents=True)
    service_file(tmp_path).write_text(content)
    async with running_service(tmp_path, models=INGEST_MODELS) as service:
        assert json.loads(service_file(tmp_path).read_text())["url"] == service.url


async def test_a_taken_port_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"cannot listen on 127.0.0.1 port {port}"):
            await serve(tmp_path, port=port, models=INGEST_MODELS)


async def test_a_state_directory_that_cannot_be_used_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError):
        await serve(tmp_path / "file", port=0, models=INGEST_MODELS)


@pytest.mark.slow
async def test_stopping_finishes_what_was_accepted(tmp_path: Path) -> None:
    stop = asyncio.Event()
    urls: asyncio.Queue[str] = asyncio.Queue()
    server = asyncio.create_task(
        serve(tmp_path, port=0, models=INGEST_MODELS, on_ready=urls.put_nowait, stop=stop)
    )
    url = await urls.get()
    async with httpx.AsyncClient(base_url=url) as client:
        requests = [
            asyncio.create_task(client.post("/ingest/BlobSource", json=[blob(f"{n}")], headers=PER_RECORD))
            for n in range(8)
        ]
        await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        answers = await asyncio.gather(*requests, return_exceptions=True)
    await server
    accepted = sum(
        1 for answer in answers if isinstance(answer, httpx.Response) and answer.status_code == 200
    )
    assert accepted >= 1
    async with running_service(tmp_path, models=INGEST_MODELS) as again, httpx.AsyncClient() as client:
        total = (await client.get(f"{again.url}/consumption/getBlobs?limit=1")).json()["total"]
    assert total >= accepted


async def half_a_request(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    """A request that the service has accepted and whose body it waits for; and the rest of the body."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps([blob("slow")]).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /ingest/BlobSource HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body[:10])
    await writer.drain()
    return reader, writer, body[10:]


async def refused(client: httpx.AsyncClient) -> httpx.Response:
    """The first answer that is no success: the service is stopping."""
    while True:
        answer = await client.post("/ingest/BlobSource", json=[])
        if answer.status_code != 200:
            return answer


@pytest.mark.series
async def test_stopping_service_finishes_only_accepted_work(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    with process:
        reader, writer, rest = await half_a_request(url)
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.post("/ingest/BlobSource", json=[])).status_code == 200
            process.send_signal(signal.SIGTERM)
            answer = await refused(client)
            assert (answer.status_code, answer.text) == (503, "The service is stopping")
            assert int(answer.headers["retry-after"]) > 0
            # one that comes on a connection of its own hears so too, and reading continues
            async with httpx.AsyncClient(base_url=url) as another:
                assert (await refused(another)).status_code == 503
                assert (await another.get("/consumption/getBlobs")).json()["total"] == 0
                assert (await another.get("/health")).json()["unhealthy"] == ["Ingest API"]
        writer.write(rest)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert await asyncio.to_thread(process.wait, 300) == 0
    async with running_service(tmp_path, models=INGEST_MODELS) as again, httpx.AsyncClient() as client:
        assert (await client.get(f"{again.url}/consumption/getBlobs")).json()["total"] == 1


@pytest.mark.slow
async def test_a_request_that_never_ends_does_not_keep_the_service_up(tmp_path: Path) -> None:
    settings = ServiceSettings(stop_timeout=0)
    async with running_service(tmp_path, models=INGEST_MODELS, settings=settings) as running:
        reader, writer, _ = await half_a_request(running.url)
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await client.post("/ingest/BlobSource", json=[])).status_code == 200
    assert b"200" not in await reader.read()
    writer.close()


@pytest.mark.slow
async def test_cancelling_the_service_leaves_nothing_behind(tmp_path: Path) -> None:
    urls: asyncio.Queue[str] = asyncio.Queue()
    server = asyncio.create_task(serve(tmp_path, port=0, models=INGEST_MODELS, on_ready=urls.put_nowait))
    url = await urls.get()
    server.cancel()
    with pytest.raises(asyncio.CancelledError):
        await server
    assert not service_file(tmp_path).exists()
    with pytest.raises(httpx.ConnectError):
        async with httpx.AsyncClient() as client:
            await client.get(f"{url}/health")
    assert asyncio.all_tasks() == {asyncio.current_task()}


PROGRAM = """
import sys
from pathlib import Path
from connectors.models import INGEST_MODELS
from engine.service.server import run

run(Path(sys.argv[1]), port=0, models=INGEST_MODELS, on_ready=lambda url: print(url, flush=True))
"""


def start(state_dir: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(state_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.slow
@pytest.mark.parametrize("number", few([signal.SIGTERM, signal.SIGINT], 1))
def test_a_signal_stops_the_process_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    process, url = start(tmp_path)
    with process:
        assert httpx.get(f"{url}/health").status_code == 200
        process.send_signal(number)
        assert process.wait(300) == 0
    assert not service_file(tmp_path).exists()


async def test_kill_9_loses_no_acknowledged_record(tmp_path: Path) -> None:
    acknowledged: dict[int, list[str]] = {}

    async def load(client: httpx.AsyncClient, numbers: range, process: subprocess.Popen[str]) -> None:
        for number in numbers:
            ids = [f"{number}-{i}" for i in range(50)]
            answer = await client.post(
                "/ingest/BlobSource",
                json=[blob(identifier) for identifier in ids],
                headers=PER_RECORD | {"Idempotency-Key": f"key-{number}"},
            )
            assert answer.json()["written"] == 50
            acknowledged[number] = ids
            if len(acknowledged) == 25:
                process.kill()

    process, url = start(tmp_path)
    with process:
        async with httpx.AsyncClient(base_url=url) as client:
            loads = (load(client, range(lane, 4_000, 8), process) for lane in range(8))
            outcomes = await asyncio.gather(*loads, return_exceptions=True)
        assert process.wait(300) == -signal.SIGKILL
    assert all(isinstance(outcome, httpx.TransportError) for outcome in outcomes)
    async with (
        running_service(tmp_path, models=INGEST_MODELS) as service,
        httpx.AsyncClient(base_url=service.url) as client,
    ):
        stored = [row["id"] for row in (await client.get("/consumption/getBlobs")).json()["items"]]
        assert len(set(stored)) == len(stored)
        assert {identifier for ids in acknowledged.values() for identifier in ids} <= set(stored)
        # Whole requests only, and a repeat of an acknowledged one is known.
        assert len(stored) % 50 == 0
        number = next(iter(acknowledged))
        again = await client.post(
            "/ingest/BlobSource",
            json=[blob(identifier) for identifier in acknowledged[number]],
            headers=PER_RECORD | {"Idempotency-Key": f"key-{number}"},
        )
        assert again.json() == {"written": 50, "dead": [], "duplicate": True}


@pytest.mark.series
def test_removed_state_directory_is_reported_and_a_restart_works(
    tmp_path: Path,
) -> None:
    process, url = start(tmp_path / "state")
    with process:
        assert httpx.post(f"{url}/ingest/BlobSource", json=[blob("a")]).status_code == 200
        shutil.rmtree(tmp_path / "state")
        refused = httpx.post(f"{url}/ingest/BlobSource", json=[blob("b")])
        assert (refused.status_code, "was removed or replaced" in refused.text) == (503, True)
        process.terminate()
        assert process.wait(300) == 0
    assert not (tmp_path / "state").exists()
    process, url = start(tmp_path / "state")
    with process:
        assert httpx.get(f"{url}/consumption/getBlobs").json()["total"] == 0
        process.terminate()
        assert process.wait(300) == 0


@pytest.mark.series
def test_a_second_process_on_the_directory_is_refused(tmp_path: Path) -> None:
    process, url = start(tmp_path)
    with process:
        try:
            with pytest.raises(ServiceError, match=url):
                asyncio.run(serve(tmp_path, port=0, models=INGEST_MODELS))
        finally:
            process.terminate()
            process.wait(300)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from connectors.models import INGEST_MODELS
from engine.service.submission import Submission, WarehouseDownError
from engine.service.warehouse import Warehouse

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
warehouse = Warehouse.open(path, INGEST_MODELS)
table = warehouse.tables["Log"]


def put(first):
    rows = [
        dict(id=str(n), timestamp="t", level="INFO", message="m" * 200, transform_timestamp="t")
        for n in range(first, first + 2000)
    ]
    work = Submission(model="Log", table=table, rows=rows, delivery="fresh")
    return warehouse.submit(work).result().written


put(0)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
for _ in range(2):
    try:
        put(2000)
    except WarehouseDownError as error:
        assert "storage fails" in warehouse.problem, warehouse.problem
    else:
        sys.exit("a full disk went unnoticed")
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
put(2000)
assert warehouse.problem is None
warehouse.close()
warehouse = Warehouse.open(path, INGEST_MODELS)
with warehouse.reading() as reader:
    print(reader.execute('SELECT count(*), count(DISTINCT id) FROM "Log"').fetchone())
warehouse.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform == "win32", reason="there are no limits on file sizes to simulate a full disk"
)
def test_a_full_disk_is_reported_and_outlived(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "w.duckdb")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "(4000, 4000)"), done.stderr
