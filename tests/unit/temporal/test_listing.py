"""A listing is stored page by page: its memory does not grow with the number of objects."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest

from benchmarks.listing import NODE, list_once, plan_of
from engine.execution.engine import Engine
from engine.state.sqlite import SqliteStateStore
from engine.temporal.messages import Listed

SPLIT_OBJECTS = 50
FEW, MANY = 4_000, 20_000


async def peak(store: SqliteStateStore, objects: int) -> int:
    """Bytes that were held at once while so many objects were listed."""
    run_id = f"r{objects}"
    async with Engine(store=store) as engine:
        gc.collect()
        tracemalloc.start()
        try:
            listed = await list_once(engine, plan_of(objects, SPLIT_OBJECTS), run_id)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert listed == Listed(objects // SPLIT_OBJECTS, chunk_splits=1)
        (last,), complete = await engine.store.splits(run_id, NODE, start=listed.splits - 1)
        assert (complete, last.split.first_ordinal) == (True, objects - SPLIT_OBJECTS)
        assert last.split.manifest["objects"][-1][0].endswith(f"-{objects - 1:010d}.txt")
    return most


@pytest.mark.series
async def test_listing_memory_does_not_grow_with_the_objects(tmp_path: Path) -> None:
    store = SqliteStateStore(tmp_path)
    await peak(store, SPLIT_OBJECTS)  # what is imported and cached once
    few, many = await peak(store, FEW), await peak(store, MANY)

    # all manifests together are over four megabytes more
    assert many - few < 1_000_000, (few, many)
