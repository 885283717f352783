"""Small models, a warehouse over them, and a client without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel

from engine.service.app import create_app
from engine.service.models import IngestModel, Row
from engine.service.warehouse import Warehouse
from tests.servers.kept_warehouse import KeptWarehouses, Opening


class NoteSource(BaseModel):
    id: str
    text: str
    size: int = 0
    tags: list[str] = []
    origin: str | None = None


class Note(NoteSource):
    transform_timestamp: str


class Medical(BaseModel):
    id: str
    patient_name: str
    patient_age: int
    doctor: str
    transform_timestamp: str


class Event(BaseModel):
    id: str
    event_name: str
    distinct_id: str
    project_id: str
    ip_address: str | None = None
    transform_timestamp: str


class UnstructuredData(BaseModel):
    id: str
    source_file_path: str
    transform_timestamp: str


def curate(records: list[Row]) -> list[Row | Exception]:
    return [
        LookupError("marked as a failure")
        if record["text"].startswith("[DLQ]")
        else {**record, "transform_timestamp": "2026-11-23T10:00:00+00:00"}
        for record in records
    ]


def warehouse_at(folder: Path) -> Path:
    return folder / "warehouse" / "warehouse.duckdb"


@pytest.fixture
def models() -> tuple[IngestModel, ...]:
    return (
        IngestModel("NoteSource", NoteSource, "Note", Note, curate),
        IngestModel("Note", Note, "Note"),
        IngestModel("Medical", Medical, "Medical"),
        IngestModel("Event", Event, "Event"),
        IngestModel("UnstructuredData", UnstructuredData, "UnstructuredData"),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return warehouse_at(tmp_path)


@pytest.fixture
def open_warehouse(request: pytest.FixtureRequest, kept_warehouses: KeptWarehouses) -> Opening:
    """Opens the warehouse at `path` if the test asks for that, else one that is kept for the next test."""
    return Warehouse.open if "path" in request.fixturenames else kept_warehouses.open


@pytest.fixture
def warehouse(
    open_warehouse: Opening, tmp_path: Path, models: tuple[IngestModel, ...]
) -> Iterator[Warehouse]:
    opened = open_warehouse(warehouse_at(tmp_path), models)
    yield opened
    opened.close()


@pytest.fixture
async def client(warehouse: Warehouse, models: tuple[IngestModel, ...]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(warehouse, models))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as opened:
        yield opened


@pytest.fixture
def note() -> Callable[..., Row]:
    """A row of the table Note."""

    def build(identifier: str, text: str = "text", **fields: object) -> Row:
        return {"id": identifier, "text": text, "transform_timestamp": "2026-11-23T10:00:00+00:00", **fields}

    return build
