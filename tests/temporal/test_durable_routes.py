"""A router on Temporal: its branches are those of a local run, in every chunk."""

from __future__ import annotations

from typing import Any

import pytest

from engine.testing import MemorySink, MemorySource
from tests.servers.temporal import DevServer
from tests.temporal.workshop import workshop
from tests.unit.kernel.routed import plan_with


@pytest.mark.series
async def test_the_branches_of_every_chunk_reach_their_sinks(server: DevServer) -> None:
    pages: dict[str, list[list[Any]]] = {
        f"s{split}": [[{"n": split * 10 + item} for item in range(10)]] for split in range(4)
    }
    low, rest = MemorySink(), MemorySink()
    plan = plan_with(
        {
            "read": {"source": "numbers"},
            "split": {
                "route": {"branches": {"low": "n < 15", "none": "n == 20"}, "else": "rest", "drop": ["none"]}
            },
            "low": {"sink": "keep", "input": "split.low"},
            "rest": {"sink": "keep", "input": "split.rest"},
        },
        {"read": MemorySource(pages), "low": low, "rest": rest},
    )
    async with workshop(server, plan) as shop, shop.worker():
        result = await shop.run(shards=2)

    assert (result.status, result.counts.written, result.counts.dropped) == ("completed", 39, 1)
    assert sorted(record["n"] for record in low.records) == list(range(15))
    assert sorted(record["n"] for record in rest.records) == [n for n in range(15, 40) if n != 20]
