"""The dead letters of a store and of services as one list, each failure once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from engine.contract.dead_letter import DeadLetter
from engine.dead_letters.search import DeadLetterQuery, search_dead_letters, search_service_letters
from engine.errors import ServiceError
from engine.service.client import ServiceClient
from engine.state.memory import MemoryStateStore
from engine.state.records import RunRecord

LETTER = DeadLetter(
    "run-1", "blobs", "load", "k1", "service", "Marked", "refused", {"id": "r1"},
    first_failed_at="2026-01-01T00:00:01Z", last_failed_at="2026-01-01T00:00:01Z",
)  # fmt: skip


def service_letter(record_id: str, **changes: object) -> dict[str, object]:
    return {
        "dead_letter_id": f"00000000-0000-5000-8000-{record_id:0>12}",
        "model": "BlobSource",
        "record_id": record_id,
        "original_record": {"id": record_id},
        "error_type": "Marked",
        "error_message": "refused",
        "failed_at": "2026-01-01T00:00:02Z",
        "source": "transform",
        "status": "open",
        **changes,
    }


FORWARDED = service_letter(
    "dlq_1", model="UnstructuredDataSource", pipeline="docs", node="extract", key="doc"
)


@pytest.fixture
async def store() -> AsyncIterator[MemoryStateStore]:
    async with MemoryStateStore() as opened:
        nodes = {"load": {"params": {"model": "BlobSource"}}, "extract": {"params": {}}}
        run = RunRecord("run-1", "blobs", "g", "i", {"nodes": nodes}, None, {}, "s", "2026-01-01T00:00:00Z")
        await opened.create_run(run)
        await opened.put_dead_letters([LETTER, replace(LETTER, pipeline="docs", node="extract", key="doc")])
        yield opened


def client(*letters: dict[str, object], page: int = 500) -> ServiceClient:
    """A service that has these dead letters; it gives at most `page` of them at once."""

    def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params
        filters = {name: query[name] for name in ("status", "pipeline", "run", "node") if name in query}
        chosen = [one for one in letters if all(one.get(name) == value for name, value in filters.items())]
        for name, column in (("id", "record_id"), ("key", "key")):
            if wanted := query.get_list(name):
                chosen = [one for one in chosen if one.get(column) in wanted]
        offset, limit = int(query.get("offset", 0)), min(page, int(query.get("limit", page)))
        return httpx.Response(200, json={"items": chosen[offset : offset + limit], "total": len(chosen)})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service")
    return ServiceClient(http, "http://service")


async def test_a_failure_that_both_stores_know_is_listed_once(store: MemoryStateStore) -> None:
    service = client(service_letter("r1"), service_letter("foreign"), FORWARDED)
    found = await search_dead_letters(store, [service], DeadLetterQuery(status="open"))
    assert [(one.store, one.place, one.key) for one in found] == [
        ("engine+service", "blobs/load", "k1"),
        ("engine+service", "docs/extract", "doc"),
        ("service", "BlobSource", "foreign"),
    ]
    assert found[0].copy is not None
    assert found[0].copy.record_id == "r1"


async def test_filters_of_runs_and_nodes_leave_out_what_belongs_to_none(store: MemoryStateStore) -> None:
    service = client(service_letter("foreign"))
    for query in (
        DeadLetterQuery(run_id="run-1"),
        DeadLetterQuery(pipeline="blobs"),
        DeadLetterQuery(node="load"),
    ):
        assert {one.store for one in await search_dead_letters(store, [service], query)} == {"engine"}
    by_key = await search_dead_letters(store, [service], DeadLetterQuery(key="foreign"))
    assert [one.store for one in by_key] == ["service"]


async def test_what_only_a_service_has_is_found_by_its_sender(store: MemoryStateStore) -> None:
    sent = {"pipeline": "blobs", "run": "run-0", "node": "load"}
    service = client(service_letter("gone", **sent), service_letter("foreign"))
    for query in (
        DeadLetterQuery(run_id="run-0"),
        DeadLetterQuery(pipeline="blobs", run_id="run-0"),
        DeadLetterQuery(node="load", key="gone"),
    ):
        found = await search_dead_letters(store, [service], query)
        assert [(one.store, one.place, one.key) for one in found] == [("service", "blobs/load", "gone")]
    assert await search_dead_letters(store, [service], DeadLetterQuery(run_id="run-2")) == []


@pytest.mark.parametrize("status", ["", "open"])
async def test_a_run_s_letters_find_copies_of_older_versions(store: MemoryStateStore, status: str) -> None:
    service = client(service_letter("r1"), FORWARDED, service_letter("foreign"))
    found = await search_dead_letters(store, [service], DeadLetterQuery(run_id="run-1", status=status))
    assert [(one.store, one.key) for one in found] == [("engine+service", "k1"), ("engine+service", "doc")]


@pytest.mark.parametrize(("status", "there"), [("", True), ("open", True), ("discarded", False)])
async def test_copies_of_older_versions_are_found_in_the_service_alone(
    store: MemoryStateStore, status: str, there: bool
) -> None:
    await store.mark_dead_letters([LETTER], "replayed")
    service = client(service_letter("r1"), service_letter("new", pipeline="blobs"), service_letter("foreign"))
    query = DeadLetterQuery(pipeline="blobs", status=status)
    found = await search_service_letters(store, [service], query)
    assert [(one.store, one.key) for one in found] == [("service", "new"), ("service", "r1")] * there


async def test_copy_of_a_replayed_letter_is_not_listed_again(
    store: MemoryStateStore,
) -> None:
    await store.mark_dead_letters([replace(LETTER, pipeline="docs", node="extract", key="doc")], "replayed")
    found = await search_dead_letters(store, [client(FORWARDED)], DeadLetterQuery(status="open"))
    assert [one.key for one in found] == ["k1"]


async def test_without_a_store_the_services_letters_stand_alone() -> None:
    service = client(service_letter("r1", status="recovered"), service_letter("r2"))
    found = await search_dead_letters(None, [service], DeadLetterQuery(status="recovered"))
    assert [(one.store, one.key, one.status) for one in found] == [("service", "r1", "recovered")]


async def test_a_letter_that_the_service_has_closed_is_closed(store: MemoryStateStore) -> None:
    service = client(service_letter("r1", status="recovered"), service_letter("foreign", status="recovered"))
    assert await search_dead_letters(store, [service], DeadLetterQuery(status="discarded")) == []
    recovered = await search_dead_letters(store, [service], DeadLetterQuery(status="recovered"))
    assert [(one.store, one.key) for one in recovered] == [("engine+service", "k1"), ("service", "foreign")]


async def test_letters_are_fetched_page_by_page() -> None:
    service = client(*(service_letter(f"r{number}") for number in range(25)), page=10)
    found = await search_dead_letters(None, [service], DeadLetterQuery())
    assert sorted(one.key for one in found) == sorted(f"r{number}" for number in range(25))


async def test_dead_letter_is_named_by_id_prefix_key_or_record_id(
    store: MemoryStateStore,
) -> None:
    service = client(service_letter("r1"))
    (one,) = await search_dead_letters(store, [service], DeadLetterQuery(names=("k1",)))
    for name in (one.id, one.id[:4], "r1"):
        assert await search_dead_letters(store, [service], DeadLetterQuery(names=(name,))) == [one]
    assert await search_dead_letters(store, [service], DeadLetterQuery(names=(one.id[:3], "k"))) == []


async def test_bounded_requests_keep_the_positions_of_dead_records() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        rows = json.loads(request.content)
        sizes.append(len(rows))
        assert request.headers["x-odw-delivery"] == "replay"
        dead = [{"index": i, "error_type": "E", "error_message": "m"} for i, r in enumerate(rows) if r["bad"]]
        return httpx.Response(200, json={"written": len(rows) - len(dead), "dead": dead, "duplicate": False})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service")
    records = [{"bad": number in (3, 777)} for number in range(1200)]
    dead = await ServiceClient(http, "http://service").send("BlobSource", records)
    assert [row.index for row in dead] == [3, 777]
    assert sum(sizes) == 1200
    assert max(sizes) <= 500


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(401), "the token is wrong"),
        (httpx.Response(500), "answered 500"),
        (httpx.Response(200, text="<html>"), "is not an ingest service"),
    ],
)
async def test_a_service_that_is_none_is_a_clear_error(response: httpx.Response, message: str) -> None:
    http = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response), base_url="http://service")
    with pytest.raises(ServiceError, match=message):
        await ServiceClient(http, "http://service").check()
