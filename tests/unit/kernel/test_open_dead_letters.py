"""The dead letter that a delivered record closes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from engine.contract.batch import Batch
from engine.contract.dead_letter import DeadLetter
from engine.errors import StateError
from engine.execution.engine import Engine
from engine.flow.open_dead_letters import OpenDeadLetters, is_same_record
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter, Progress
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import run

MIDNIGHT = datetime(2026, 1, 2, tzinfo=UTC)
NUMBER = UUID("6f9619ff-8b86-d011-b42d-00cf4fc964ff")


def letter(key: str, record: Any) -> DeadLetter:
    return DeadLetter("r1", "p", "load", key, "load", "E", "m", record)


@pytest.mark.parametrize(
    ("key", "dead", "delivered", "same"),
    [
        ("k", {"id": "1", "x": 1}, {"id": "1", "x": 2}, True),
        ("k", {"id": 1}, {"id": "1"}, True),
        ("k", {"id": "1"}, {"id": "2"}, False),
        ("k", {"id": "007"}, {"id": 7}, True),
        ("k", {"id": "007"}, {"id": "7"}, False),
        ("k", {"id": "7.5"}, {"id": 8}, False),
        ("k", {"id": "1.50"}, {"id": Decimal("1.5")}, True),
        ("k", {"id": MIDNIGHT.isoformat()}, {"id": MIDNIGHT}, True),
        ("k", {"id": "2026-01-02T01:00:00+01:00"}, {"id": MIDNIGHT}, True),
        ("k", {"id": NUMBER.hex.upper()}, {"id": NUMBER}, True),
        ("k", {"id": None}, {"id": 7}, False),
        ("5", {"number": 5, "x": 1}, {"number": 5, "x": 2}, True),
        ("file:3", {"x": 1}, {"x": 2}, False),
        ("file:3", {"x": 1}, {"x": 1}, True),
        ("k", None, {"x": 1}, False),
        ("k", None, {"id": "k"}, True),
        ("k", [1], {"x": 1}, False),
    ],
)
def test_records_of_one_key_may_be_different_ones(
    key: str, dead: Any, delivered: dict[str, object], same: bool
) -> None:
    assert is_same_record(key, dead, delivered) is same


def test_a_delivered_batch_closes_each_letter_once() -> None:
    letters = [letter("a", {"id": "a"}), letter("b", {"id": "b"}), letter("a", {"id": "a", "old": 1})]
    watched = OpenDeadLetters(letters)
    for _ in range(2):
        watched.deliver(Batch([{"id": "a"}, {"id": "c"}], ["a", "c"]))
    assert watched.delivered == [letters[0], letters[2]]


class Killed(MemoryStateStore):
    """Once armed, accepts nothing after the first commit of a position, as if its process was dead."""

    armed = dead = False

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        if self.dead:
            raise StateError("killed")
        await super().commit(run_id, progress, epoch=epoch)
        self.dead = self.armed and any(one.position is not None for one in progress)

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str, reason: str = "") -> None:
        if self.dead:
            raise StateError("killed")
        await super().mark_dead_letters(letters, status, reason)


@pytest.mark.anyio
async def test_a_letter_is_closed_before_its_delivery_is_committed() -> None:
    store, records = Killed(), [[{"id": 1}, {"id": 2}]]
    poisoned = FaultySink(poison=lambda record: record["id"] == 2)
    await run(linear_plan(MemorySource(records), poisoned), store)

    store.armed = True
    async with Engine(store=store) as engine:
        await engine.run(linear_plan(MemorySource(records), MemorySink()))
        assert [one.status for one in await store.dead_letters(DeadLetterFilter())] == ["recovered"]
