"""Find values that users' code returns as records by mistake: a number, a text, None.

Checks the types of a whole batch, at almost no cost; single values only when a type is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

from pydantic import BaseModel

from engine.contract.batch import DeadItem, Drop, Outcome
from engine.contract.callables import place_of
from engine.contract.types import Record
from engine.errors import RecordError, TransientError

__all__ = [
    "Makers",
    "are_records",
    "first_non_records",
    "non_record_error",
    "non_records",
    "with_records_only",
]

Makers: TypeAlias = Sequence[Callable[..., Any]]

_RECORDS = (Mapping, BaseModel)
_ITEMS = (*_RECORDS, DeadItem)
_OUTCOMES = (*_RECORDS, list, type(None), Drop, RecordError, TransientError)


def are_records(kind: type) -> bool:
    """Whether values of this type are records."""
    return issubclass(kind, _RECORDS)


def non_records(records: Sequence[Record], function: Callable[..., Any]) -> list[tuple[int, RecordError]]:
    """Return failures, by index, for values that are not records; `function` returned them."""
    if all(map(are_records, set(map(type, records)))):
        return []
    return [(place, _error(one, function)) for place, one in enumerate(records) if not are_records(type(one))]


def first_non_records(records: Sequence[Record], method: Callable[..., Any]) -> list[tuple[int, RecordError]]:
    """Return `non_records` if the first value is not a record, and nothing otherwise: no cost per record.

    `method`: of the component that made them; one without `spec`, as in tests, may make anything.
    """
    if not records or are_records(type(records[0])) or not hasattr(getattr(method, "__self__", None), "spec"):
        return []
    return non_records(records, method)


def non_record_error(records: Sequence[object], makers: Makers) -> RecordError | None:
    """Return the error of the first value that is not a record, naming the methods that it may come from.

    None if all are records, or if it is unknown what made them.
    """
    wrong = [one for one in records if not are_records(type(one))] if makers else []
    return _error(wrong[0], *makers) if wrong else None


def with_records_only(outcomes: Sequence[Outcome], function: Callable[..., Any]) -> Sequence[Outcome]:
    """Return the outcomes with an error for each that is not a record, or whose list has such an item."""
    kinds = set(map(type, outcomes))
    has_lists = any(issubclass(kind, list) for kind in kinds)
    lists = (one for one in outcomes if isinstance(one, list)) if has_lists else ()
    items = set(map(type, chain.from_iterable(lists)))
    if all(issubclass(kind, _OUTCOMES) for kind in kinds) and all(issubclass(kind, _ITEMS) for kind in items):
        return outcomes
    return [_checked(one, function) for one in outcomes]


def _checked(outcome: Outcome, function: Callable[..., Any]) -> Outcome:
    if isinstance(outcome, list):
        wrong = next((one for one in outcome if not isinstance(one, _ITEMS)), outcome)
        return outcome if wrong is outcome else _error(wrong, function)
    return outcome if isinstance(outcome, _OUTCOMES) else _error(outcome, function)


def _error(value: object, *functions: Callable[..., Any]) -> RecordError:
    got = "None" if value is None else type(value).__name__
    made_by = " or ".join(map(place_of, functions))
    message = f"{made_by} gave {got} as a record: a record is a mapping or a Pydantic model"
    return RecordError(message, kind="NotAnObject")
