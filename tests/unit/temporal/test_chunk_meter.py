"""A worker's metrics of chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

from engine.contract.component import Kind
from engine.flow.stats import NodeStats
from engine.temporal.metrics import ChunkMeter


class Meter:
    """Adds up what its counters are told."""

    def __init__(self) -> None:
        self.told: Counter[tuple[str, str]] = Counter()
        self.labels: Mapping[str, Any] = {}

    def with_additional_attributes(self, labels: Mapping[str, Any]) -> Meter:
        self.labels = labels
        return self

    def create_counter(self, name: str, description: str) -> SimpleNamespace:
        def add(value: int, labels: Mapping[str, Any]) -> None:
            self.told[name, labels["node"]] += value

        return SimpleNamespace(add=add)


def test_a_chunk_counts_by_node_and_counts_once() -> None:
    read = NodeStats("read", Kind.SOURCE, "s3", records_in=10, records_out=10, aggregate={"bytes": 700.0})
    ask = NodeStats("ask", Kind.TRANSFORM, "llm_extract", dead=1, records_in=10, records_out=9)
    load = NodeStats("load", Kind.SINK, "ingest", records_in=9, records_out=9, retries=2)
    meter = Meter()
    counting = ChunkMeter(cast("Any", meter), "memos")
    for calls in (2, 2, 3):
        ask.aggregate |= {"calls": calls, "tokens_in": 100.0 * calls, "cost_usd": 0.0105 * calls}
        nodes = [one.snapshot(1.0) for one in (read, ask, load)]
        counting.update(cast("Any", SimpleNamespace(nodes=nodes)))
    assert meter.labels == {"pipeline": "memos"}
    assert meter.told == {
        ("odw_records_read", "read"): 10,
        ("odw_bytes", "read"): 700,
        ("odw_records_dead", "ask"): 1,
        ("odw_calls", "ask"): 3,
        ("odw_tokens_in", "ask"): 300,
        ("odw_cost_microdollars", "ask"): 31_500,
        ("odw_records_written", "load"): 9,
        ("odw_retries", "load"): 2,
    }
