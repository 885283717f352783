"""Who can read the warehouse."""

from __future__ import annotations

from pathlib import Path

from engine.service.models import load_ingest_models
from engine.service.warehouse import Warehouse


def test_only_the_owner_can_read_the_warehouse(tmp_path: Path) -> None:
    path = tmp_path / "warehouse" / "warehouse.duckdb"

    warehouse = Warehouse.open(path, load_ingest_models())
    warehouse.close()

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
