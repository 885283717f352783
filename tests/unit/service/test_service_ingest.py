"""`POST /ingest/<Model>` without a socket: statuses, texts, per-record results, keys, bodies."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import zlib
from pathlib import Path

import httpx
import orjson
import pytest

from engine.service.app import create_app
from engine.service.auth import KeyCheck, hash_of, is_hash
from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.storage import Storage
from engine.service.tables import tables_of
from engine.service.warehouse import Warehouse
from engine.service.writer import Writer

Models = tuple[IngestModel, ...]
Body = object

PER_RECORD = {"X-ODW-Results": "per-record"}
GOOD = {"id": "a", "text": "fine"}


async def post(
    client: httpx.AsyncClient, body: Body, name: str = "NoteSource", **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return await client.post(f"/ingest/{name}", content=content, headers=sent)


async def letters(client: httpx.AsyncClient, **query: str) -> list[dict[str, object]]:
    answer = (await client.get("/dead-letters", params=query)).json()
    assert answer["total"] == len(answer["items"])
    items: list[dict[str, object]] = answer["items"]
    return items


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (GOOD, 200, "SUCCESS"),
        ([GOOD], 200, "SUCCESS"),
        ([], 200, "SUCCESS"),
        ([GOOD | {"unknown": 1}], 200, "SUCCESS"),
        (b"{", 400, "Invalid JSON: unexpected end of data: line 1 column 2 (char 1)"),
        (b'{"id": "\xe9"}', 400, "Invalid JSON: the body is not UTF-8 text, at byte 8"),
        ("{}".encode("utf-16"), 400, "Invalid JSON: the body is UTF-16 text: send UTF-8"),
        ("{}".encode("utf-16-be"), 400, "Invalid JSON: the body is UTF-16 text: send UTF-8"),
        (b"\x1f\x8b\x08", 400, "Invalid JSON: the body is compressed: send Content-Encoding: gzip"),
        (b"5", 400, "Invalid JSON: invalid type: integer, expected an object or an array"),
        ([GOOD, {"id": "b"}], 400, "Invalid JSON: Missing fields: text"),
        ({"id": None, "text": ""}, 400, "Invalid JSON: Required value at id, but is none"),
    ],
)
async def test_statuses_and_texts_of_the_contract(
    client: httpx.AsyncClient, body: Body, status: int, text: str
) -> None:
    answer = await post(client, body)
    assert (answer.status_code, answer.text) == (status, text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["notesource", "NOTESOURCE", "NoteSource"])
async def test_the_models_name_ignores_case(client: httpx.AsyncClient, name: str) -> None:
    assert (await post(client, GOOD, name)).status_code == 200


async def test_unknown_models_and_paths_are_404(client: httpx.AsyncClient) -> None:
    answer = await post(client, GOOD, "Nothing")
    assert (answer.status_code, answer.text) == (404, "Please run `moose ls` to view your routes")
    for path in ("/ingest", "/ingest/", "/ingest//NoteSource", "/ingest/NoteSource/1.0/more"):
        assert (await client.post(path, json=GOOD)).status_code == 404
    assert (await client.get("/nothing")).status_code == 404


@pytest.mark.slow
async def test_a_version_and_a_last_slash_change_nothing(client: httpx.AsyncClient) -> None:
    for path in ("/ingest/NoteSource/1.0", "/ingest/notesource/", "/ingest/NOTESOURCE/0.1/"):
        answer = await client.post(path, json=GOOD)
        assert (answer.status_code, answer.text) == (200, "SUCCESS")
    assert (await client.get("/consumption/getNote/")).status_code == 200


@pytest.mark.slow
async def test_options_is_answered_and_other_methods_are_not(client: httpx.AsyncClient) -> None:
    for path in ("/ingest/Note", "/consumption/getMedical", "/dead-letters", "/health"):
        assert (await client.options(path)).status_code == 200
        assert (await client.delete(path)).status_code == 405
    assert (await client.get("/ingest/Note")).status_code == 405


@pytest.mark.slow
async def test_by_default_one_bad_record_rejects_all(client: httpx.AsyncClient, warehouse: Warehouse) -> None:
    await post(client, [GOOD | {"unknown": 1}, {"id": "b"}, 3])
    found = await letters(client)
    assert [(item["record_id"], item["source"], item["status"]) for item in found] == [
        ("a", "api", "open"),
        ("b", "api", "open"),
    ]
    assert {item["error_message"] for item in found} == {"Missing fields: text"}
    assert found[0]["original_record"] == GOOD | {"unknown": 1}
    with warehouse.reading() as reader:
        assert reader.execute('SELECT count(*) FROM "Note"').fetchall() == [(0,)]


@pytest.mark.slow
async def test_by_default_a_failing_transform_answers_success(
    client: httpx.AsyncClient,
) -> None:
    answer = await post(client, [GOOD, {"id": "b", "text": "[DLQ]x", "more": 1}])
    assert answer.text == "SUCCESS"
    (item,) = await letters(client)
    assert item["original_record"] == {"id": "b", "text": "[DLQ]x", "more": 1}
    assert (item["error_type"], item["source"], item["model"]) == ("LookupError", "transform", "NoteSource")
    assert str(item["failed_at"]).endswith("+00:00")


@pytest.mark.slow
async def test_per_record_results_name_every_dead_record(client: httpx.AsyncClient) -> None:
    body = [GOOD, {"id": "b"}, {"id": "c", "text": "[DLQ]x"}, 3, {"id": "e", "text": "fine"}]
    answer = (await post(client, body, **PER_RECORD)).json()
    ids = {str(item["record_id"]): item["dead_letter_id"] for item in await letters(client)}
    assert answer == {
        "written": 2,
        "duplicate": False,
        "dead": [
            {
                "index": 1,
                "id": "b",
                "error_type": "ValidationError",
                "error_message": "Missing fields: text",
                "source": "api",
                "dead_letter_id": ids["b"],
            },
            {
                "index": 2,
                "id": "c",
                "error_type": "LookupError",
                "error_message": "marked as a failure",
                "source": "transform",
                "dead_letter_id": ids["c"],
            },
            {
                "index": 3,
                "id": None,
                "error_type": "ValidationError",
                "error_message": "invalid type: integer, expected an object",
                "source": "api",
                "dead_letter_id": ids["None"],
            },
        ],
    }


async def test_an_empty_array_with_per_record_results(client: httpx.AsyncClient) -> None:
    answer = await post(client, [], **PER_RECORD)
    assert answer.json() == {"written": 0, "dead": [], "duplicate": False}


@pytest.mark.slow
async def test_a_repeated_key_is_answered_as_the_first_was(client: httpx.AsyncClient) -> None:
    headers = PER_RECORD | {"Idempotency-Key": "key", "X-ODW-Delivery": "fresh"}
    first = (await post(client, [GOOD, {"id": "b"}], **headers)).json()
    again = (await post(client, [GOOD, {"id": "b"}], **headers)).json()
    assert again == first | {"duplicate": True}
    assert first["written"] == 1


async def test_two_keys_of_one_request_are_refused(client: httpx.AsyncClient) -> None:
    keys = [("Idempotency-Key", "first"), ("Idempotency-Key", "second")]
    answer = await client.post("/ingest/NoteSource", json=[GOOD], headers=keys)
    assert (answer.status_code, answer.text) == (400, "Idempotency-Key must be given once")


@pytest.mark.slow
async def test_a_key_with_another_body_is_refused(client: httpx.AsyncClient) -> None:
    await post(client, [GOOD], Idempotency_Key="key")
    other = await post(client, [GOOD | {"id": "b"}], Idempotency_Key="key")
    assert (other.status_code, "another body" in other.text) == (422, True)
    assert [row["id"] for row in (await client.get("/consumption/getNote")).json()["items"]] == ["a"]
    assert (await post(client, [GOOD], Idempotency_Key="key")).text == "SUCCESS"


@pytest.mark.slow
async def test_a_key_counts_for_one_model(client: httpx.AsyncClient) -> None:
    row = {**GOOD, "transform_timestamp": "t"}
    assert (await post(client, [row], Idempotency_Key="key")).text == "SUCCESS"
    assert (await post(client, [row | {"id": "b"}], "Note", Idempotency_Key="key")).text == "SUCCESS"
    assert {row["id"] for row in (await client.get("/consumption/getNote")).json()["items"]} == {"a", "b"}


@pytest.mark.slow
async def test_of_two_bodies_under_one_key_at_once_one_is_refused(client: httpx.AsyncClient) -> None:
    bodies = [[GOOD | {"id": f"{number}"}] for number in range(8)]
    answers = await asyncio.gather(*(post(client, body, Idempotency_Key="key") for body in bodies))
    stored = (await client.get("/consumption/getNote")).json()["items"]
    assert sorted(answer.status_code for answer in answers) == [200] + [422] * 7
    assert len(stored) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"X-ODW-Delivery": "twice"},
        {"Idempotency-Key": "x" * 201},
        {"Idempotency-Key": ""},
        {"X-ODW-Epoch": "run/load"},
        {"X-ODW-Epoch": "1"},
        {"X-ODW-Epoch": "run load 1"},
        {"X-ODW-Epoch": "run/load -1"},
        {"X-ODW-Epoch": "run/load one"},
        {"X-ODW-Epoch": f"run/load {2**63}"},
        {"X-ODW-Epoch": "run/load " + "1" * 5000},
        {"X-ODW-Epoch": "x" * 201 + " 1"},
        {"X-ODW-Unless-Newer": "yesterday"},
        {"X-ODW-Unless-Newer": str(2**63)},
    ],
)
async def test_wrong_headers_are_400(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await post(client, GOOD, **headers)).status_code == 400


@pytest.mark.slow
@pytest.mark.parametrize(("scope", "number"), [("run/load", 2), ("x" * 200, 2**63 - 1)])
async def test_a_fresh_request_of_an_overtaken_epoch_replaces_its_rows(
    client: httpx.AsyncClient, warehouse: Warehouse, scope: str, number: int
) -> None:
    for delivery, epoch in (("replay", number), ("fresh", 1)):
        headers = PER_RECORD | {"X-ODW-Delivery": delivery, "X-ODW-Epoch": f"{scope} {epoch}"}
        answer = await post(client, [GOOD], **headers)
        assert answer.json() == {"written": 1, "dead": [], "duplicate": False}
    with warehouse.reading() as reader:
        assert reader.execute('SELECT count(*) FROM "Note"').fetchall() == [(1,)]


@pytest.mark.slow
async def test_a_corrected_record_recovers_its_dead_letter(client: httpx.AsyncClient) -> None:
    await post(client, [{"id": "b", "text": "[DLQ]x"}, {"id": "c"}], **PER_RECORD)
    await post(client, [{"id": "b", "text": "mended"}], X_ODW_Delivery="replay", **PER_RECORD)
    assert [item["record_id"] for item in await letters(client, status="recovered")] == ["b"]
    assert [item["record_id"] for item in await letters(client, status="open")] == ["c"]
    assert [item["record_id"] for item in await letters(client, id="c", model="notesource")] == ["c"]
    assert await letters(client, model="Note") == []
    assert (await client.get("/dead-letters", params={"status": "lost"})).status_code == 400


@pytest.mark.slow
async def test_gzip_bodies_are_read_members_and_all(client: httpx.AsyncClient) -> None:
    body = gzip.compress(b'[{"id": "a", ') + gzip.compress(b'"text": "zipped"}]')
    answer = await post(client, body, **PER_RECORD | {"Content-Encoding": "gzip"})
    assert answer.json()["written"] == 1


@pytest.mark.slow
async def test_a_byte_order_mark_is_not_part_of_the_records(client: httpx.AsyncClient) -> None:
    body = b'\xef\xbb\xbf[{"id": "a", "text": "marked"}]'
    assert (await post(client, body, **PER_RECORD)).json()["written"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"[]" * 999)[:-12]], ids=["other", "cut off"])
async def test_a_broken_gzip_body_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await post(client, body, Content_Encoding="gzip")
    assert (answer.status_code, answer.text) == (400, "Failed to read request body")


async def test_another_encoding_is_415(client: httpx.AsyncClient) -> None:
    assert (await post(client, b"[]", Content_Encoding="br")).status_code == 415


@pytest.mark.slow
async def test_a_large_body_is_413_also_when_it_only_unzips_to_one(
    warehouse: Warehouse, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine.service.bodies as bodies

    largest = 0
    real = zlib.decompressobj

    class Watched:
        """Notes how much was ever unpacked at once."""

        def __init__(self, window: int) -> None:
            self._inner = real(window)

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

        def decompress(self, data: bytes, limit: int) -> bytes:
            nonlocal largest
            result = self._inner.decompress(data, limit)
            largest = max(largest, len(result))
            return result

    monkeypatch.setattr(bodies.zlib, "decompressobj", Watched)  # type: ignore[attr-defined]
    app = create_app(warehouse, models, ServiceSettings(max_body_size=1_000))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
    ) as client:
        bomb = gzip.compress(b" " * 5_000_000)
        for body, headers in ((b" " * 1_001, {}), (bomb[:900] + bomb[900:], {"Content-Encoding": "gzip"})):
            answer = await post(client, body, **headers)
            assert answer.status_code == 413
            assert answer.text == "Request body too large. Maximum size is 1000 bytes"
        assert (await post(client, b"[" + b" " * 998 + b"]")).status_code == 200
        small_bomb = gzip.compress(b" " * 100_000)
        assert len(small_bomb) < 1_000
        assert (await post(client, small_bomb, Content_Encoding="gzip")).status_code == 413
    assert largest == 1_001


@pytest.mark.slow
async def test_a_full_queue_is_429_and_a_stopping_service_503(path: Path, models: Models) -> None:
    tables = tables_of(models)
    settings = ServiceSettings(max_queued_requests=1)
    storage = Storage(path, tables.values(), settings.memory_limit)
    storage.open()
    writer = Writer(storage.cursor, storage.reopen, tables.values(), settings)
    warehouse = Warehouse(storage, writer, tables)
    app = create_app(warehouse, models, settings)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
    ) as client:
        waiting = asyncio.create_task(post(client, GOOD))
        async with asyncio.timeout(300):
            while not warehouse.writer.is_full:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.001)
        refused = await post(client, GOOD)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        writer.start()
        assert (await waiting).status_code == 200
        app.state.context.is_stopping = True
        stopping = await post(client, GOOD)
        assert (stopping.status_code, stopping.headers["retry-after"]) == (503, "5")
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/liveness")).status_code == 200
    await asyncio.to_thread(warehouse.close)


@pytest.mark.slow
async def test_removed_warehouse_is_503_and_unhealthy(client: httpx.AsyncClient, path: Path) -> None:
    assert (await post(client, GOOD)).status_code == 200
    shutil.rmtree(path.parent)

    answer = await post(client, GOOD)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.text.startswith(f"Error: the warehouse {path} was removed or replaced")
    health = await client.get("/health")
    assert (health.status_code, health.json()["unhealthy"]) == (503, ["Ingest API"])
    # what was stored can still be read, and saved
    assert (await client.get("/liveness")).status_code == 200


@pytest.mark.slow
async def test_transforms_that_fail_are_500(path: Path) -> None:
    from pydantic import BaseModel

    class Row(BaseModel):
        id: str

    broken = IngestModel("Broken", Row, "Broken", Row, lambda rows: [{} for _ in rows])
    short = IngestModel("Short", Row, "Broken", Row, lambda rows: rows[1:])
    buggy = IngestModel("Buggy", Row, "Broken", Row, lambda rows: [rows[0]["absent"]])
    warehouse = Warehouse.open(path, [broken, short, buggy])
    app = create_app(warehouse, [broken, short, buggy])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1"
    ) as client:
        answer = await post(client, [{"id": "a"}], "Broken", **PER_RECORD)
        (dead,) = answer.json()["dead"]
        assert (dead["id"], dead["source"]) == ("a", "table")
        assert dead["error_message"] == "The row has no value at id"
        for name in ("Short", "Buggy"):
            answer = await post(client, {"id": "a"}, name)
            assert (answer.status_code, answer.text) == (500, "Error")
    await asyncio.to_thread(warehouse.close)


@pytest.mark.slow
async def test_a_model_without_a_table_is_validated_and_transformed_only(path: Path) -> None:
    from pydantic import BaseModel

    class Row(BaseModel):
        id: str

    loose = IngestModel("Loose", Row, None)
    warehouse = Warehouse.open(path, [loose])
    transport = httpx.ASGITransport(app=create_app(warehouse, [loose]))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await post(client, [{"id": "a"}, {}], "Loose", **PER_RECORD)
        assert (answer.json()["written"], len(answer.json()["dead"])) == (1, 1)
    await asyncio.to_thread(warehouse.close)


@pytest.mark.slow
async def test_keys_guard_ingest_and_reading_each(warehouse: Warehouse, models: Models) -> None:
    settings = ServiceSettings(ingest_api_key=hash_of("aa.bb"), consumption_api_key=hash_of("cc.dd"))
    transport = httpx.ASGITransport(app=create_app(warehouse, models, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for _ in range(2):
            assert (await post(client, GOOD, Authorization="Bearer aa.bb")).status_code == 200
        refused = await post(client, GOOD, Authorization="Bearer cc.dd")
        assert (refused.status_code, refused.text) == (401, "Unauthorized: Invalid or missing token")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert (await post(client, GOOD)).status_code == 401
        for path in ("/consumption/getMedical", "/dead-letters"):
            assert (await client.get(path)).status_code == 401
            allowed = await client.get(path, headers={"Authorization": "Bearer cc.dd"})
            assert allowed.status_code == 200
        assert (await client.get("/health")).status_code == 200


def test_the_key_hash_is_pbkdf2_of_the_token_with_the_salt_as_text() -> None:
    # hashlib.pbkdf2_hmac("sha256", b"74657374", b"abcdef", 1000, 20), written out.
    assert hash_of("74657374.abcdef") == "b8d23eaca8e2e159078fe5dc349faace2856978d"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Bearer .x", "Bearer x.", "Basic a.b"])
async def test_headers_without_a_token_are_refused(header: str | None) -> None:
    check = KeyCheck("00" * 20)
    for _ in range(2):  # the second time it is remembered
        assert not await check.allows(header)
    assert await KeyCheck(None).allows(header)


def test_only_what_some_token_could_have_is_taken_for_a_hash() -> None:
    found = hash_of("aa.bb")
    assert found is not None
    assert is_hash(f" {found.upper()}\n")
    assert not any(map(is_hash, ("", "aa.bb", found[1:], found + "0", "g" * 40)))
