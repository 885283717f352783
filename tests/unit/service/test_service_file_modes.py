"""Permissions of the warehouse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.service import discovery
from engine.service.models import load_ingest_models
from engine.service.warehouse import Warehouse


@pytest.mark.slow
def test_only_the_owner_can_read_the_warehouse(tmp_path: Path) -> None:
    path = tmp_path / "warehouse" / "warehouse.duckdb"

    warehouse = Warehouse.open(path, load_ingest_models())
    warehouse.close()

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_planted_address_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_answers", lambda url: True)
    (tmp_path / "warehouse").mkdir(mode=0o700)
    own = discovery.ServiceAddress("http://127.0.0.1:4200", os.getpid())
    discovery.announce(tmp_path, own)
    path = discovery.service_file(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert discovery.find_running(tmp_path) == own

    for planted in (path, path.parent):
        mode = planted.stat().st_mode
        planted.chmod(0o777)
        assert discovery.find_running(tmp_path) is None
        planted.chmod(mode)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert discovery.find_running(tmp_path) is None


@pytest.mark.parametrize("url", ["http://192.0.2.7:4200", "http://[2001:db8::1]:4200", "http://", "nonsense"])
def test_a_service_of_another_machine_is_not_used(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_answers", lambda url: True)
    (tmp_path / "warehouse").mkdir(mode=0o700)
    discovery.announce(tmp_path, discovery.ServiceAddress(url, os.getpid()))

    assert discovery.find_running(tmp_path) is None
