"""A service that starts while another process is about to release the warehouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.service import server
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


async def test_a_warehouse_that_is_let_go_of_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = locked(monkeypatch, 2)
    async with server.running_service(tmp_path, models=()) as service:
        assert service.url.startswith("http://")
    assert len(attempts) == 3


async def test_a_warehouse_that_stays_locked_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked(monkeypatch, 10**9)
    monkeypatch.setattr(server, "LOCK_PATIENCE", 0.0)
    with pytest.raises(WarehouseLockedError, match="another process"):
        async with server.running_service(tmp_path, models=()):
            pass
