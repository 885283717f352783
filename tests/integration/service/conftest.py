"""The service with the project's own models, on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.models import INGEST_MODELS
from engine.service.server import RunningService, running_service


@pytest.fixture
async def service(tmp_path: Path, kept_warehouse: None) -> AsyncIterator[RunningService]:
    async with running_service(tmp_path, models=INGEST_MODELS) as running:
        yield running
