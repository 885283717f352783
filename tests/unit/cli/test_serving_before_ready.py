"""Answers of the service between opening its socket and having an engine for runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from engine.cli.local.operating import PipelineOperations, RunLog
from engine.service.app import create_app
from engine.service.settings import ServiceSettings
from engine.service.warehouse import Warehouse

FILE = "pipelines: {p: {nodes: {a: {source: stdin}, b: {sink: stdout}}}}\n"


@pytest.mark.asyncio
async def test_a_service_that_is_starting_reports_it(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(FILE)
    operations = PipelineOperations(str(file), RunLog())
    settings = ServiceSettings()
    warehouse = await asyncio.to_thread(Warehouse.open, tmp_path / "warehouse", (), settings)
    try:
        transport = httpx.ASGITransport(app=create_app(warehouse, (), settings, operations, operations))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            page = await client.get("/", headers={"Accept": "text/html"})
            triggered = await client.get("/consumption/extract-p")
    finally:
        await asyncio.to_thread(warehouse.close)
    assert (page.status_code, triggered.status_code) == (503, 500)
    assert "The service is starting" in page.text
    assert "the service is starting" in triggered.json()["message"]
