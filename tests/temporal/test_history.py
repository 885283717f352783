"""Histories contain references and counts, are small, and contain nothing of a record."""

from __future__ import annotations

import pytest
from temporalio.converter import DataConverter

from engine.errors import TransientError
from engine.state.records import DeadLetterFilter
from engine.temporal.messages import MAX_PARKED, ShardRequest, Splits
from engine.testing import FaultySink, MemorySource, linear_plan
from tests.series import few
from tests.servers.temporal import DevServer
from tests.temporal.histories import Family, family, payloads
from tests.temporal.workshop import numbered, workshop
from tests.unit.kernel.runs import QUICK

MARKER = "Patient Jane Roe"
LARGEST = 4096
RECORDS = {
    split: [[f"{MARKER} {number}" for number in page] for page in pages]
    for split, pages in numbered(12).items()
}


def audited(found: Family) -> int:
    """The size of the largest payload; nothing quotes a record, whatever was encoded how."""
    largest = 0
    for history in found.all:
        for event in history.events:
            assert MARKER.encode() not in event.SerializeToString()
        for _, payload in payloads(history.events):
            assert payload.metadata["encoding"] in (b"json/plain", b"binary/null"), "it could be read above"
            largest = max(largest, payload.ByteSize())
    return largest


FAULTS: dict[str, list[Exception | None]] = {
    "well": [],
    "busy": [TransientError("busy"), None] * 6,
    "poison": [],
    # the message of an exception that no component should let out tends to quote what it was about
    "bug": [KeyError(f"{MARKER} 3")],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", few(FAULTS, 1))
async def test_histories_hold_only_references_and_counts(server: DevServer, kind: str) -> None:
    poison = (lambda record: record.endswith("7")) if kind == "poison" else None
    sink = FaultySink(FAULTS[kind], poison=poison)
    plan = linear_plan(MemorySource(RECORDS), sink, options={"n1": QUICK})
    async with workshop(server, plan) as shop, shop.worker():
        result = await shop.run(run_id=kind, params={"test": {"instructions": "x" * 1500}})
        found = await family(shop.client, f"etl/test/{kind}")
        letters = await shop.engine.store.dead_letters(DeadLetterFilter(run_id=result.run_id))

    assert result.status == "completed"
    assert 1500 < audited(found) < LARGEST
    assert max(found.attempts()) == (2 if kind == "bug" else 1)
    assert len(letters) == result.counts.dead == (12 if kind == "poison" else 0)
    assert all(MARKER in str(letter.record) for letter in letters), "they are in the store alone"


def test_largest_shard_state_fits_into_a_payload() -> None:
    numbers = list(range(999_000_000, 999_000_000 + MAX_PARKED))
    state = ShardRequest(
        "unstructured_data-20261125T012255-01a210",
        "unstructured_data",
        "f" * 64,
        Splits("files", 10**9, 1),
        10**9,
        10**9,
        parked={
            kind: numbers[first::3] for first, kind in enumerate(("SinkUnavailable", "Stalled", "Outage"))
        },
        to_retry=[10**9] * 200,
    )
    [payload] = DataConverter.default.payload_converter.to_payloads([state])

    assert payload.ByteSize() < LARGEST
