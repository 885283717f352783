"""The dead letter that a delivered record closes."""

from __future__ import annotations

from typing import Any

import pytest

from engine.contract.batch import Batch
from engine.contract.dead_letter import DeadLetter
from engine.flow.open_dead_letters import OpenDeadLetters, is_same_record


def letter(key: str, record: Any) -> DeadLetter:
    return DeadLetter("r1", "p", "load", key, "load", "E", "m", record)


@pytest.mark.parametrize(
    ("key", "dead", "delivered", "same"),
    [
        ("k", {"id": "1", "x": 1}, {"id": "1", "x": 2}, True),
        ("k", {"id": 1}, {"id": "1"}, True),
        ("k", {"id": "1"}, {"id": "2"}, False),
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
