"""A service that starts while another process is about to release the warehouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import create_model

from engine.errors import RegistryError
from engine.service import server
from engine.service.models import IngestModel, load_ingest_models
from engine.service.storage import WarehouseLockedError
from engine.service.warehouse import Warehouse


def locked(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Path]:
    """The warehouse has another owner, so many times that it is asked for; the list gets every attempt."""
    opened, attempts = Warehouse.open, list[Path]()

    def try_to_open(path: Path, *arguments: Any) -> Warehouse:
        attempts.append(path)
        if len(attempts) <= times:
            raise WarehouseLockedError("another process is using the warehouse")
        return opened(path, *arguments)

    monkeypatch.setattr(Warehouse, "open", staticmethod(try_to_open))
    monkeypatch.setattr(server, "LOCK_RETRY", 0.0)
    return attempts


@pytest.mark.slow
async def test_a_warehouse_that_is_let_go_of_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = locked(monkeypatch, 2)
    async with server.running_service(tmp_path, models=()) as service:
        assert service.url.startswith("http://")
    assert len(attempts) == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("DailyPageViews", None), "built-in view getDailyPageViews"),
        (("A", "Events"), "built-in route getEvents of table 'Event'"),
        (("Reading", "Other", "B", "Reading"), "getReading of table 'Other'"),
    ],
)
async def test_models_read_at_the_same_route_stop_the_start(
    tmp_path: Path, names: tuple[str | None, ...], said: str
) -> None:
    own = [
        IngestModel(str(name), create_model(str(name), id=(str, ...)), table or name)
        for name, table in zip(names[::2], names[1::2], strict=True)
    ]
    with pytest.raises(RegistryError, match=said):
        async with server.running_service(tmp_path, models=(*load_ingest_models(), *own)):
            pass
    assert not (tmp_path / "warehouse").exists()


@pytest.mark.slow
async def test_an_exact_name_is_read_before_a_short_one(tmp_path: Path) -> None:
    own = [IngestModel(one, create_model(one, id=(str, ...)), one) for one in ("ReadingSource", "Reading")]
    async with server.running_service(tmp_path, models=own) as service:
        assert service.context.queries["getreading"].table == "Reading"


async def test_a_warehouse_that_stays_locked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked(monkeypatch, 10**9)
    monkeypatch.setattr(server, "LOCK_PATIENCE", 0.0)
    with pytest.raises(WarehouseLockedError, match="another process"):
        async with server.running_service(tmp_path, models=()):
            pass
