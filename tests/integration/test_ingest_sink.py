"""The ingest sink against scripted servers and the real service, over sockets."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import httpx
import pytest
from pydantic import SecretStr

import engine
from connectors.ingest import IngestConnection, IngestParams, IngestSink, forward_row
from connectors.models import INGEST_MODELS
from connectors.warehouse.client import open_client
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.dead_letter import DeadLetter
from engine.contract.keys import KeyList
from engine.contract.verification import Delivered
from engine.errors import BatchError, FatalError, RecordError, TransientError
from engine.plan.model import Plan
from engine.service.server import running_service
from engine.testing import ScriptedClock
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url

pytestmark = pytest.mark.usefixtures("kept_warehouse")


@asynccontextmanager
async def open_sink(
    url: str,
    run_id: str = "run-1",
    token: str | None = None,
    attempt: int = 1,
    *,
    keep_newer: bool = False,
    **params: Any,
) -> AsyncIterator[IngestSink]:
    sink = IngestSink(
        IngestParams(**({"model": "BlobSource"} | params)),
        IngestConnection(url=url, token=SecretStr(token) if token else None),
    )
    clock = ScriptedClock(jump=True)
    sink.ctx = Context(run_id=run_id, node="load", epoch=attempt, keep_newer=keep_newer, clock=clock)
    async with sink:
        yield sink


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


def batch_of(*records: object, replay: bool = False) -> Batch:
    batch = Batch(list(records), [f"key/{number}" for number in range(len(records))])
    ack = SplitTracker("split", replay=replay).begin(len(records), None)
    batch.origins = [(ack, len(records))]
    return batch


def written(request: Request) -> Answer:
    return Answer.of({"written": len(request.json), "dead": [], "duplicate": False})


def slept(sink: IngestSink) -> list[float]:
    """How long the sink has waited, each time."""
    assert isinstance(sink.ctx.clock, ScriptedClock)
    return sink.ctx.clock.slept


async def rows_of(url: str, api: str) -> list[dict[str, object]]:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/consumption/{api}")).json()["items"]


# --- against the real service


@pytest.mark.slow
async def test_one_bad_record_of_five_hundred_dies_and_the_others_arrive(tmp_path: Path) -> None:
    records = [blob(number) for number in range(500)]
    records[123] = blob(123, file_size="not a number")
    async with running_service(tmp_path, models=INGEST_MODELS) as service, open_sink(service.url) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(*records))
        rows = await rows_of(service.url, "getBlobs")
    assert list(caught.value.failures) == [123]
    error = caught.value.failures[123]
    assert isinstance(error, RecordError)
    assert "file_size" in str(error)
    assert {row["id"] for row in rows} == {f"b{number}" for number in range(500) if number != 123}


@pytest.mark.slow
async def test_a_record_that_the_service_kills_is_named_with_its_reason(tmp_path: Path) -> None:
    async with running_service(tmp_path, models=INGEST_MODELS) as service, open_sink(service.url) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(blob(0), blob(1, file_name="[DLQ]report.txt"), blob(2)))
        rows = await rows_of(service.url, "getBlobs")
    ((index, error),) = caught.value.failures.items()
    assert (index, error.stage, error.kind) == (1, "service", "MarkedAsFailure")
    assert len(rows) == 2


@pytest.mark.slow
async def test_the_same_batch_again_in_the_same_run_changes_nothing(tmp_path: Path) -> None:
    batch = batch_of(blob(0), blob(1))
    async with running_service(tmp_path, models=INGEST_MODELS) as service, open_sink(service.url) as sink:
        first = await sink.write(batch)
        second = await sink.write(batch)
        rows = await rows_of(service.url, "getBlobs")
    assert first.confirmed
    assert second.confirmed
    assert len(rows) == 2


@pytest.mark.slow
async def test_a_service_is_asked_with_what_it_has_acknowledged(tmp_path: Path) -> None:
    async with running_service(tmp_path, models=INGEST_MODELS) as service, open_sink(service.url) as sink:
        assert not await sink.is_answering()  # nothing was acknowledged yet
        await sink.write(batch_of(blob(0, bucket_name="old")))
        await sink.write(batch_of(blob(1)))
        async with open_sink(service.url, "run-2") as newer:
            await newer.write(batch_of(blob(1, bucket_name="newer"), replay=True))
        assert await sink.is_answering()
        rows = await rows_of(service.url, "getBlobs")
    assert {row["id"]: row["bucket_name"] for row in rows} == {"b0": "old", "b1": "newer"}
    assert not await sink.is_answering()


@pytest.mark.slow
async def test_unanswered_request_leaves_no_duplicates(tmp_path: Path) -> None:
    async with running_service(tmp_path, models=INGEST_MODELS) as service, httpx.AsyncClient() as client:

        async def lose_the_first_answer(request: Request) -> Answer:
            headers = {name: value for name, value in request.headers.items() if name != "host"}
            answer = await client.post(f"{service.url}{request.path}", content=request.body, headers=headers)
            if len(proxy.requests) == 1:
                return Answer(504)
            return Answer(
                answer.status_code, answer.content, {"content-type": answer.headers["content-type"]}
            )

        proxy = ScriptedServer(lose_the_first_answer)
        async with proxy.running(), open_sink(proxy.url) as sink:
            batch = batch_of(*(blob(number) for number in range(4)))
            with pytest.raises(TransientError):
                await sink.write(batch)
            await sink.write(batch.slice(0, 1))
            await sink.write(batch.slice(1, 4))
        rows = await rows_of(service.url, "getBlobs")
    assert sorted(row["id"] for row in rows) == ["b0", "b1", "b2", "b3"]


class LateGate:
    """Stands in front of the service and holds one request back, until `deliver` hands it on."""

    def __init__(self, service: str, client: httpx.AsyncClient, holds: int = 1) -> None:
        self.server = ScriptedServer(self._pass)
        self.holding = anyio.Event()
        self.gives_up = True
        self._done = anyio.Event()
        self._service, self._client, self._holds = service, client, holds
        self._held: Request | None = None

    async def _pass(self, request: Request) -> Answer:
        if self._held is None and len(self.server.requests) == self._holds:
            self._held = request
            self.holding.set()
            if not self.gives_up:
                await self._done.wait()
            return Answer(504)
        return await self._forward(request)

    async def deliver(self) -> str:
        """Hand the held request on; how it was marked."""
        assert self._held is not None
        answer = await self._forward(self._held)
        assert json.loads(answer.body)["duplicate"] is False
        self._done.set()
        return self._held.headers["x-odw-delivery"]

    async def _forward(self, request: Request) -> Answer:
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        answer = await self._client.post(
            f"{self._service}{request.path}", content=request.body, headers=headers
        )
        assert answer.status_code == 200
        return Answer(200, answer.content, {"content-type": answer.headers["content-type"]})


@asynccontextmanager
async def late_gate(folder: Path, holds: int = 1) -> AsyncIterator[tuple[LateGate, str]]:
    """A gate in front of a service, and the address of the service itself."""
    async with running_service(folder, models=INGEST_MODELS) as service, httpx.AsyncClient() as client:
        gate = LateGate(service.url, client, holds)
        async with gate.server.running():
            yield gate, service.url


@pytest.mark.slow
async def test_late_request_leaves_no_duplicates(
    tmp_path: Path,
) -> None:
    async with late_gate(tmp_path) as (gate, url), open_sink(gate.server.url) as sink:
        batch = batch_of(*(blob(number) for number in range(4)))
        with pytest.raises(TransientError, match="504"):
            await sink.write(batch)
        await sink.write(batch.slice(0, 2))
        await sink.write(batch.slice(2, 4))
        assert await gate.deliver() == "fresh"
        rows = await rows_of(url, "getBlobs")
    assert sorted(row["id"] for row in rows) == ["b0", "b1", "b2", "b3"]


@pytest.mark.slow
async def test_late_request_of_a_killed_attempt_leaves_no_duplicates(
    tmp_path: Path,
) -> None:
    records = [blob(number) for number in range(4)]
    async with late_gate(tmp_path) as (gate, url):
        gate.gives_up = False
        async with open_sink(gate.server.url) as killed, anyio.create_task_group() as group:
            group.start_soon(killed.write, batch_of(*records))
            await gate.holding.wait()
            group.cancel_scope.cancel()
        async with open_sink(gate.server.url, attempt=2) as sink:
            batch = batch_of(*records, replay=True)
            await sink.write(batch.slice(0, 3))
            await sink.write(batch.slice(3, 4))
        assert await gate.deliver() == "fresh"
        rows = await rows_of(url, "getBlobs")
    assert sorted(row["id"] for row in rows) == ["b0", "b1", "b2", "b3"]


@pytest.mark.slow
async def test_resume_during_an_open_request_writes_every_row_once(
    tmp_path: Path,
) -> None:
    async with late_gate(tmp_path, holds=3) as (gate, url), engine.Engine() as owner:
        gate.gives_up = False
        plan = one_pipeline(tmp_path, gate.server.url, batch=20)
        async with owner.start(plan) as run, anyio.create_task_group() as group:
            group.start_soon(run.wait)
            await gate.holding.wait()
            group.cancel_scope.cancel()
        # batches of another size, so that no request of the resume is the held one again
        plan = one_pipeline(tmp_path, gate.server.url, batch=30)
        report = await owner.run(plan, resume=await owner.store.get_run(run.run_id))
        assert (report.attempt, report.tally.written) == (2, 200)
        assert await gate.deliver() == "fresh"
        rows = await rows_of(url, "getBlobs")
    assert len(rows) == len({row["id"] for row in rows}) == 200


def one_pipeline(folder: Path, url: str, batch: int) -> Plan:
    """200 new blobs into `ingest`, this many per request."""
    file = folder / "p.yaml"
    file.write_text(
        f'version: 1\nconnections: {{warehouse: {{url: "{url}"}}}}\n'
        "pipelines:\n  p:\n    nodes:\n"
        "      read: {source: blob, with: {records: 200}}\n"
        f"      load: {{sink: ingest, with: {{connection: warehouse, model: BlobSource, records: {batch}}}}}"
    )
    (plan,) = engine.load(file).values()
    return plan


@pytest.mark.slow
async def test_staged_rows_are_confirmed_by_the_real_consumption_api(tmp_path: Path) -> None:
    staged = {
        "id": "unstr_1",
        "source_file_path": "s3://bucket/a.txt",
        "extracted_data": "text",
        "processed_at": "2026-01-01T00:00:00Z",
        "transform_timestamp": "2026-01-01T00:00:00Z",
    }
    async with (
        running_service(tmp_path, models=INGEST_MODELS) as service,
        open_sink(service.url, model="UnstructuredData", confirm="visible") as sink,
    ):
        receipt = await sink.write(batch_of(staged))
        assert receipt.confirmed
        assert slept(sink) == []


@pytest.mark.slow
async def test_forwarded_dead_letters_count_as_delivered(
    tmp_path: Path,
) -> None:
    letter = DeadLetter("run-1", "p", "extract", "a.pdf@1", "", "CorruptDocument", "unreadable", None)
    async with (
        running_service(tmp_path, models=INGEST_MODELS) as service,
        open_sink(service.url, model="UnstructuredDataSource") as sink,
    ):
        await sink.write_dead_letters([letter])
        await sink.write_dead_letters([letter])
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"{service.url}/dead-letters?model=UnstructuredDataSource")
    stored = answer.json()
    assert stored["total"] == 1
    (item,) = stored["items"]
    assert item["record_id"] == forward_row(letter)["id"]
    assert [item[name] for name in ("pipeline", "run", "node", "key")] == ["p", "run-1", "extract", "a.pdf@1"]


# --- against scripted servers


async def test_answered_body_is_freed_without_garbage_collection() -> None:
    body = b"[" + b" " * 100_000 + b"]"
    async with (
        ScriptedServer(lambda request: Answer.of({})).running() as server,
        open_client(
            IngestConnection(url=server.url), concurrency=1, longest=30, clock=ScriptedClock()
        ) as client,
    ):
        gc.disable()
        try:
            before = sys.getrefcount(body)
            await client.post("/ingest/X", body, {}, max_answer=1000)
            assert sys.getrefcount(body) == before
        finally:
            gc.enable()


async def test_an_address_without_a_listener_is_transient_and_named() -> None:
    url = unused_url()
    async with open_sink(url) as sink:
        with pytest.raises(TransientError, match=f"no ingest service is listening at {url}"):
            await sink.write(batch_of(blob(0)))


async def test_an_address_that_can_never_be_reached_is_no_outage() -> None:
    async with open_sink("http://127.1:4200") as sink:
        with pytest.raises(FatalError, match=r"127\.1:4200 is not a valid address: check `url`"):
            await sink.write(batch_of(blob(0)))


async def test_timed_out_request_turns_its_records_into_replays() -> None:
    given_up = anyio.Event()

    async def hang_once(request: Request) -> Answer:
        if len(server.requests) == 1:
            await given_up.wait()
        return written(request)

    server = ScriptedServer(hang_once)
    async with server.running(), open_sink(server.url, timeout=0.5) as sink:
        with pytest.raises(TransientError, match=r"did not answer within 0\.5 s"):
            await sink.write(batch_of(blob(0), blob(1)))
        given_up.set()
        with suppress(TransientError):  # a slow machine may need longer than half a second
            await sink.write(batch_of(blob(0)))
    assert [request.headers["x-odw-delivery"] for request in server.requests] == ["fresh", "replay"]


async def test_a_connection_that_breaks_is_transient() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        async with open_sink(f"http://127.0.0.1:{port}") as sink:
            with pytest.raises(TransientError, match="lost the connection"):
                await sink.write(batch_of(blob(0)))


async def test_two_503_then_200_sends_the_same_key_three_times() -> None:
    answers = [Answer(503, b"", {"retry-after": "7"}), Answer(503), Answer.of({"written": 1, "dead": []})]
    async with ScriptedServer(answers=answers).running() as server, open_sink(server.url) as sink:
        batch, waits = batch_of(blob(0)), []
        for _ in range(3):
            try:
                receipt = await sink.write(batch)
            except TransientError as error:
                waits.append(error.retry_after)
    assert receipt.confirmed
    assert waits == [7.0, None]
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "byte order mark"])
async def test_results_are_read_however_a_proxy_passes_them_on(packed: bool) -> None:
    results = json.dumps({"written": 1, "dead": []}).encode()
    answer = (
        Answer(200, gzip.compress(results), {"content-encoding": "gzip"})
        if packed
        else Answer(200, b"\xef\xbb\xbf" + results)
    )
    async with ScriptedServer(lambda _: answer).running() as server, open_sink(server.url) as sink:
        receipt = await sink.write(batch_of(blob(1)))
    assert receipt.confirmed


async def test_records_of_an_uncertain_request_become_replays() -> None:
    answers = [Answer(500), Answer.of({"written": 1, "dead": []}), Answer.of({"written": 1, "dead": []})]
    async with ScriptedServer(answers=answers).running() as server, open_sink(server.url) as sink:
        batch = batch_of(blob(0), blob(1))
        with pytest.raises(TransientError):
            await sink.write(batch)
        await sink.write(batch.slice(0, 1))
        fresh = Batch([blob(2)], ["key/other"])
        await sink.write(fresh)
    marks = [request.headers["x-odw-delivery"] for request in server.requests]
    assert marks == ["fresh", "replay", "fresh"]


async def test_batch_possibly_delivered_before_is_sent_as_a_replay() -> None:
    async with ScriptedServer(written).running() as server, open_sink(server.url) as sink:
        await sink.write(batch_of(blob(0), replay=True))
    assert server.requests[0].headers["x-odw-delivery"] == "replay"
    assert server.requests[0].headers["x-odw-results"] == "per-record"


def epoch_of(request: Request) -> tuple[str, int]:
    scope, number = request.headers["x-odw-epoch"].split(" ")
    return scope, int(number)


@pytest.mark.slow
async def test_epoch_grows_with_attempts_and_uncertain_outcomes() -> None:
    busy, lost, fine = Answer(429), Answer(503), Answer.of({"written": 1, "dead": []})
    epochs = []
    for attempt in (1, 2):
        answers = [busy, fine, lost, fine, lost, fine]
        async with (
            ScriptedServer(answers=answers).running() as server,
            open_sink(server.url, attempt=attempt) as sink,
        ):
            for number in range(len(answers)):
                with suppress(TransientError):
                    await sink.write(batch_of(blob(number)))
        epochs += [epoch_of(request) for request in server.requests]
    assert {scope for scope, _ in epochs} == {"run-1/load"}
    numbers = [number for _, number in epochs]
    first = numbers[0]
    assert [number - first for number in numbers[:6]] == [0, 0, 0, 1, 1, 2]
    assert min(numbers[6:]) > max(numbers[:6])


async def test_epoch_scope_is_a_valid_header_for_any_run_name() -> None:
    names = ["a run, été", "x" * 300, "x" * 301]
    async with ScriptedServer(written).running() as server:
        for name in names:
            async with open_sink(server.url, run_id=name) as sink:
                await sink.write(batch_of(blob(0)))
    scopes = [epoch_of(request)[0] for request in server.requests]
    assert scopes[0] == "a%20run%2C%20%C3%A9t%C3%A9/load"
    assert len(set(scopes)) == len(names)
    assert max(map(len, scopes)) <= 200


async def test_another_run_sends_the_same_bytes_under_another_key() -> None:
    async with ScriptedServer(written).running() as server:
        for run_id in ("run-1", "run-2", "run-1"):
            async with open_sink(server.url, run_id) as sink:
                await sink.write(batch_of(blob(0)))
    first, second, third = (request.headers["idempotency-key"] for request in server.requests)
    assert first == third != second


async def test_equal_bytes_from_two_places_of_a_source_have_two_keys() -> None:
    async with ScriptedServer(written).running() as server, open_sink(server.url) as sink:
        await sink.write(Batch([blob(0)], ["place/1"]))
        await sink.write(Batch([blob(0)], ["place/2"]))
    assert server.requests[0].headers["idempotency-key"] != server.requests[1].headers["idempotency-key"]


@pytest.mark.slow
async def test_an_update_that_brings_an_earlier_value_back_is_the_last_word(tmp_path: Path) -> None:
    async with running_service(tmp_path, models=INGEST_MODELS) as service, open_sink(service.url) as sink:
        for line, size in enumerate((1, 2, 1)):
            update = Batch([blob(0, file_size=size)], KeyList(["b0"], first_ordinal=line))
            update.origins = [(SplitTracker("file", replay=True).begin(1, None), 1)]
            await sink.write(update)
        (row,) = await rows_of(service.url, "getBlobs")
    assert row["file_size"] == 1


@pytest.mark.slow
async def test_a_replay_of_dead_letters_keeps_newer_rows(tmp_path: Path) -> None:
    async with running_service(tmp_path, models=INGEST_MODELS) as service, AsyncExitStack() as stack:
        zombie = await stack.enter_async_context(open_sink(service.url, "replay-1", keep_newer=True))
        async with open_sink(service.url, run_id="run-2") as other:
            await other.write(batch_of(blob(0, file_size=2), replay=True))
        await zombie.write(batch_of(blob(0, file_size=1), blob(1, file_size=1), replay=True))
        await zombie.write(batch_of(blob(9), blob(8), blob(1, file_size=3), replay=True))
        sizes = {row["id"]: row["file_size"] for row in await rows_of(service.url, "getBlobs")}
        checks = await zombie.count_records(Delivered(5, 0, unique=False))
    assert sizes == {"b0": 2, "b1": 3, "b9": 300, "b8": 300}
    assert all(check.passed for check in checks)


async def test_a_service_of_another_make_takes_replays_as_they_are() -> None:
    def answer(request: Request) -> Answer:
        return written(request) if request.method == "POST" else Answer(404)

    async with ScriptedServer(answer).running() as server:
        async with open_sink(server.url, keep_newer=True) as sink:
            await sink.write(batch_of(blob(0), replay=True))
    assert "x-odw-unless-newer" not in server.requests[-1].headers


async def test_the_first_lines_of_two_files_have_two_keys() -> None:
    async with ScriptedServer(written).running() as server, open_sink(server.url) as sink:
        for path in ("one.jsonl", "two.jsonl"):
            update = Batch([blob(0)], KeyList(["b0"]))
            update.origins = [(SplitTracker(path).begin(1, None), 1)]
            await sink.write(update)
    assert server.requests[0].headers["idempotency-key"] != server.requests[1].headers["idempotency-key"]


async def test_a_service_that_may_not_know_keys_is_asked_nothing_twice() -> None:
    async with ScriptedServer(answers=[Answer()]).running() as server, open_sink(server.url) as sink:
        await sink.write(batch_of(blob(0)))
        assert not await sink.is_answering()


async def test_a_service_without_results_has_accepted_and_no_more() -> None:
    async with ScriptedServer(answers=[Answer()]).running() as server, open_sink(server.url) as sink:
        receipt = await sink.write(batch_of(blob(0)))
    assert not receipt.confirmed


async def test_a_plain_service_never_sees_a_record_that_cannot_pass() -> None:
    async with ScriptedServer(answers=[Answer()]).running() as server, open_sink(server.url) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(blob(0), blob(1, bucket_name=None), blob(2)))
    assert [record["id"] for record in server.requests[0].json] == ["b0", "b2"]
    assert list(caught.value.failures) == [1]
    assert "bucket_name" in str(caught.value.failures[1])
    assert not caught.value.confirmed


async def test_a_400_of_a_plain_service_refuses_the_whole_batch_and_says_so() -> None:
    answers = [Answer(400, b"Invalid JSON: Missing fields: level")]
    async with (
        ScriptedServer(answers=answers).running() as server,
        open_sink(server.url, validation="never") as sink,
    ):
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(blob(0), blob(1), blob(2)))
    errors = caught.value.failures
    assert sorted(errors) == [0, 1, 2]
    assert all(isinstance(error, RecordError) for error in errors.values())
    assert "the service rejected the whole batch of 3 records" in str(errors[0])
    assert "Missing fields: level" in str(errors[0])


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_wrong_token_or_model_stops_the_run_without_the_token(status: int) -> None:
    async with (
        ScriptedServer(answers=[Answer(status)]).running() as server,
        open_sink(server.url, token="geheim-7") as sink,
    ):
        with pytest.raises(FatalError) as caught:
            await sink.write(batch_of(blob(0)))
    assert caught.value.kind == ("config" if status == 404 else "auth")
    message = str(caught.value)
    assert f"{server.url}/ingest/BlobSource answered {status}" in message
    assert "geheim-7" not in message
    assert server.requests[0].headers["authorization"] == "Bearer geheim-7"


@pytest.mark.parametrize(("model", "named"), [("BlobSrc", True), ("BlobSource", False)])
async def test_unknown_model_is_answered_with_the_known_ones(model: str, named: bool) -> None:
    async with (
        ScriptedServer(answers=[Answer(404)]).running() as server,
        open_sink(server.url, model=model) as sink,
    ):
        with pytest.raises(FatalError, match=f"/ingest/{model} answered 404: .*name of the model") as caught:
            await sink.write(batch_of(blob(0)))
    assert ("Installed here" in str(caught.value)) is named
    assert ("BlobSource, LogSource," in str(caught.value)) is named


async def test_a_redirect_is_not_followed() -> None:
    answer = Answer(302, b"", {"location": "http://127.0.0.1:1/"})
    async with ScriptedServer(answers=[answer]).running() as server, open_sink(server.url) as sink:
        with pytest.raises(FatalError, match="redirects are not followed"):
            await sink.write(batch_of(blob(0)))


@pytest.mark.slow
async def test_413_halves_until_it_fits_and_remembers_the_size() -> None:
    def at_most_two(request: Request) -> Answer:
        return written(request) if len(request.json) <= 2 else Answer(413)

    async with ScriptedServer(at_most_two).running() as server, open_sink(server.url) as sink:
        records = [blob(number, file_path="/" + "x" * 1500 + "/") for number in range(8)]
        receipt = await sink.write(batch_of(*records))
        tried = len(server.requests)
        await sink.write(batch_of(*records))
    accepted = [request.json for request in server.requests[:tried] if len(request.json) <= 2]
    sent = [record["id"] for records_of_one in accepted for record in records_of_one]
    assert receipt.confirmed
    assert sorted(sent) == sorted(record["id"] for record in records)
    assert all(len(request.json) <= 2 for request in server.requests[tried:])


async def test_only_the_record_that_is_too_large_dies() -> None:
    def refuse_big(request: Request) -> Answer:
        return Answer(413) if len(request.body) > 2_000 else written(request)

    async with ScriptedServer(refuse_big).running() as server, open_sink(server.url) as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(blob(0), blob(1, file_path="x" * 3_000), blob(2)))
    assert list(caught.value.failures) == [1]
    assert caught.value.failures[1].kind == "RecordTooLarge"


async def test_failure_of_a_second_request_keeps_the_first_delivered() -> None:
    answers = [Answer.of({"written": 2, "dead": []}), Answer(429, b"", {"retry-after": "3"})]
    async with (
        ScriptedServer(answers=answers).running() as server,
        open_sink(server.url, bytes=1024) as sink,
    ):
        records = [blob(number, file_path="x" * 200) for number in range(4)]
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(*records))
    assert sorted(caught.value.failures) == [2, 3]
    assert caught.value.failures[2].retry_after == 3.0


async def test_results_that_do_not_add_up_stop_the_run() -> None:
    answers = [Answer.of({"written": 1, "dead": []})]
    async with ScriptedServer(answers=answers).running() as server, open_sink(server.url) as sink:
        with pytest.raises(FatalError, match="1 written and 0 dead for 2 records"):
            await sink.write(batch_of(blob(0), blob(1)))


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    answers = [Answer(200, b"x" * 2_000_000)]
    async with ScriptedServer(answers=answers).running() as server, open_sink(server.url) as sink:
        with pytest.raises(FatalError, match="not an ingest service"):
            await sink.write(batch_of(blob(0)))


async def test_compressed_bodies_hold_the_same_records() -> None:
    async with ScriptedServer(written).running() as server, open_sink(server.url, compress=True) as sink:
        await sink.write(batch_of(blob(0), blob(1)))
    assert server.requests[0].headers["content-encoding"] == "gzip"
    assert server.requests[0].json == [blob(0), blob(1)]


# --- confirm: visible


class Visibility:
    """A service that shows rows only from the n-th look on, and may have killed some."""

    def __init__(self, *, from_look: int | None, dead: tuple[str, ...] = ()) -> None:
        self.looks = 0
        self.asked: list[list[str]] = []
        self._from = from_look
        self._dead = dead

    def __call__(self, request: Request) -> Answer:
        if request.method == "POST":
            return written(request)
        ids = parse_qs(request.query)["id"]
        if request.path == "/dead-letters":
            items = [
                {"record_id": one, "error_type": "Broken", "error_message": "why"}
                for one in ids
                if one in self._dead
            ]
            return Answer.of({"items": items, "total": len(items)})
        self.looks += 1
        self.asked.append(ids)
        ready = self._from is not None and self.looks >= self._from
        shown = [one for one in ids if ready and one not in self._dead]
        return Answer.of({"items": [{"id": one} for one in shown], "total": len(shown)})


async def test_rows_visible_at_the_third_look_are_delivered() -> None:
    script = Visibility(from_look=3)
    async with ScriptedServer(script).running() as server, open_sink(server.url, confirm="visible") as sink:
        receipt = await sink.write(batch_of(blob(0), blob(1)))
        waits = slept(sink)
    assert receipt.confirmed
    assert script.looks == 3
    assert len(waits) == 2
    assert waits[0] < waits[1]


@pytest.mark.slow
async def test_rows_never_visible_are_worth_another_try_after_the_deadline() -> None:
    script = Visibility(from_look=None)
    async with (
        ScriptedServer(script).running() as server,
        open_sink(server.url, confirm="visible", confirm_timeout=20) as sink,
    ):
        with pytest.raises(TransientError, match="not visible at /consumption/getBlobs within 20 s"):
            await sink.write(batch_of(blob(0), blob(1)))
        waited = sum(slept(sink))
        with pytest.raises(TransientError):
            await sink.write(batch_of(blob(0), blob(1)).slice(1, 2))
    posts = [request for request in server.requests if request.method == "POST"]
    assert waited == pytest.approx(20)
    assert [request.headers["x-odw-delivery"] for request in posts] == ["fresh", "replay"]


async def test_row_in_the_services_dead_letters_is_dead_at_once() -> None:
    script = Visibility(from_look=1, dead=("b1",))
    async with ScriptedServer(script).running() as server, open_sink(server.url, confirm="visible") as sink:
        with pytest.raises(BatchError) as caught:
            await sink.write(batch_of(blob(0), blob(1)))
        assert slept(sink) == []
    error = caught.value.failures[1]
    assert list(caught.value.failures) == [1]
    assert (error.kind, error.stage, str(error)) == ("Broken", "service", "why")


async def test_ids_are_asked_for_a_hundred_at_a_time() -> None:
    script = Visibility(from_look=1)
    async with ScriptedServer(script).running() as server, open_sink(server.url, confirm="visible") as sink:
        await sink.write(batch_of(*(blob(number) for number in range(250))))
    assert [len(ids) for ids in script.asked] == [100, 100, 50]


async def test_a_failing_look_is_followed_by_another() -> None:
    shown = Answer.of({"items": [{"id": "b0"}], "total": 1})
    answers = [Answer.of({"written": 1, "dead": []}), Answer(503, b"", {"retry-after": "5"}), shown]
    async with (
        ScriptedServer(answers=answers).running() as server,
        open_sink(server.url, confirm="visible") as sink,
    ):
        receipt = await sink.write(batch_of(blob(0)))
        assert slept(sink) == [5.0]
    assert receipt.confirmed
