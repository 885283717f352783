"""Dead letters of earlier runs whose records are delivered later."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel, TypeAdapter

from engine.contract.batch import Batch
from engine.contract.dead_letter import DeadLetter
from engine.contract.types import JsonValue, Record

_TYPES = frozenset({int, float, Decimal, UUID, date, datetime, time})


class OpenDeadLetters:
    """The open dead letters that a delivery at one sink closes, by key.

    Attributes:
        delivered: dead letters whose records this run has delivered.
    """

    def __init__(self, letters: Iterable[DeadLetter]) -> None:
        self._by_key: dict[str, list[DeadLetter]] = {}
        for letter in letters:
            self._by_key.setdefault(letter.key, []).append(letter)
        self.delivered: list[DeadLetter] = []

    def deliver(self, batch: Batch) -> None:
        """Note which dead letters a delivered batch closes."""
        if not self._by_key:
            return
        for index, key in enumerate(batch.keys.to_list()):
            letters = self._by_key.get(key)
            if letters is None:
                continue
            record = _mapping(batch.records[index])
            closed = [letter for letter in letters if is_same_record(key, letter.record, record)]
            if closed:
                self.delivered += closed
                self._by_key[key] = [letter for letter in letters if letter not in closed]


def is_same_record(key: str, dead: JsonValue, delivered: Mapping[str, object]) -> bool:
    """Return whether a dead letter's record and one delivered under its key are the same.

    Some keys name a place, such as a line of a file that may have been rewritten. So the records must have
    the same id, the same value that is the key itself, or be equal.
    """
    if not isinstance(dead, dict):
        return key in map(str, delivered.values())
    if "id" in dead and "id" in delivered:
        return _is_same_id(dead["id"], delivered["id"])
    return dead == delivered or any(
        str(value) == key and str(delivered.get(name)) == key for name, value in dead.items()
    )


def _is_same_id(dead: JsonValue, delivered: object) -> bool:
    """Return whether both are the same id, in any spelling of a value that is not a text."""
    if str(dead) == str(delivered):
        return True
    if type(delivered) not in _TYPES:
        return False
    try:
        return bool(_reader(cast(Any, type(delivered))).validate_strings(str(dead)) == delivered)
    except (ValueError, ArithmeticError):
        return False


@functools.cache
def _reader(kind: Any) -> TypeAdapter[object]:
    return TypeAdapter(kind)


def _mapping(record: Record) -> Mapping[str, object]:
    return record.__dict__ if isinstance(record, BaseModel) else record
