"""When the ingest sink sends columns, and how it returns to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa
import pytest

from connectors.ingest import IngestConnection, IngestParams, IngestSink
from connectors.ingest.columns import COLUMNS_TYPE
from connectors.ingest.delivery import Delivery, Epoch
from connectors.warehouse.client import Answer
from engine.contract.batch import Batch

OFFER = "id VARCHAR, size BIGINT"
Record = dict[str, object]
RECORDS: list[Record] = [{"id": "a", "size": 1}, {"id": "b", "size": 2}]


class Service:
    """Notes what is posted, and answers as `statuses` says, 200 at last."""

    def __init__(self, *statuses: int, offer: str = OFFER) -> None:
        self.posts: list[tuple[str, list[Record]]] = []
        self._statuses, self._offer = list(statuses), offer

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, max_answer: int) -> Answer:
        if headers.get("Content-Type") == COLUMNS_TYPE:
            self.posts.append(("columns", pa.ipc.open_stream(body).read_all().to_pylist()))
        else:
            self.posts.append(("json", orjson.loads(body)))
        status = self._statuses.pop(0) if self._statuses else 200
        if status != 200:
            return Answer(status, "text/plain", b"Invalid JSON: unexpected character")
        results = orjson.dumps({"written": len(self.posts[-1][1]), "dead": [], "duplicate": False})
        return Answer(200, "application/json", results, self._offer)

    @property
    def forms(self) -> list[str]:
        return [form for form, _ in self.posts]


def sink_to(service: Service, **params: Any) -> IngestSink:
    sink = IngestSink(IngestParams(**({"model": "Note"} | params)), IngestConnection(url="http://localhost"))
    epoch = Epoch("scope", 1)
    sink._delivery = Delivery(
        service,  # type: ignore[arg-type]
        model="Note",
        scope="scope",
        epoch=epoch,
        origin="",
        compress=False,
        max_body=sink.params.bytes,
    )
    return sink


def batch(number: int) -> Batch:
    return Batch(list(RECORDS), [f"{number}/1", f"{number}/2"])


async def test_columns_are_sent_once_they_are_offered() -> None:
    service = Service()
    sink = sink_to(service)

    for number in range(2):
        await sink.write(batch(number))

    assert service.posts == [("json", RECORDS), ("columns", RECORDS)]


async def test_a_batch_that_comes_again_keeps_its_form() -> None:
    service = Service()
    sink = sink_to(service)

    for number in (0, 1, 0, 1):
        await sink.write(batch(number))

    assert service.forms == ["json", "columns", "json", "columns"]


async def test_a_service_that_refuses_columns_gets_the_same_records_as_json() -> None:
    service = Service(200, 400)
    sink = sink_to(service)

    for number in range(3):
        await sink.write(batch(number))

    assert service.forms == ["json", "columns", "json", "json"]
    assert all(records == RECORDS for _, records in service.posts)


async def test_columns_that_are_too_large_are_halved_as_json() -> None:
    service = Service(200, 413)
    sink = sink_to(service)

    for number in range(2):
        await sink.write(batch(number))

    assert service.posts[1:] == [("columns", RECORDS), ("json", RECORDS[:1]), ("json", RECORDS[1:])]


@pytest.mark.parametrize(
    ("offer", "params"),
    [
        ("", {}),
        ("id VARCHAR", {}),
        ("id VARCHAR, size TIMESTAMPTZ", {}),
        (OFFER, {"validation": "always"}),
        (OFFER, {"max_record_bytes": 2000}),
        (OFFER, {"columns": False}),
    ],
)
async def test_json_is_sent_wherever_columns_would_not_do(offer: str, params: dict[str, Any]) -> None:
    service = Service(offer=offer)
    sink = sink_to(service, **params)

    for number in range(2):
        await sink.write(batch(number))

    assert service.forms == ["json", "json"]
