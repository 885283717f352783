"""Apply a function to each record of a batch, without a `try` for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from engine.contract.batch import Batch, Drop
from engine.errors import RecordError, TransientError

__all__ = ["map_each", "select_or_fail"]

R = TypeVar("R")


def map_each(
    function: Callable[[R], Any], records: Sequence[R], failure: Callable[[Exception, int], Any]
) -> tuple[list[Any], bool]:
    """Apply a function to each record; where it raises, `failure` returns the result instead.

    Args:
        failure: called with the exception and the index of the record; its own exceptions propagate.

    Returns:
        The results in order, and whether any is from `failure`.
    """
    made: list[Any] = []
    remaining: Iterator[R] = iter(records)
    failed = False
    while len(made) < len(records):
        try:
            # on an exception `extend` keeps the results before it, and the iterator is past the record
            made.extend(map(function, remaining))
            if len(made) < len(records):
                # `extend` mistakes a StopIteration of the function for the end of the records
                made.append(function(records[len(made)]))
        except Exception as error:  # noqa: BLE001 - the boundary to users' code and to the operators of values
            made.append(failure(error, len(made)))
            failed = True
    return made, failed


def select_or_fail(batch: Batch, marks: Sequence[Any], reason: str) -> Batch:
    """Keep the records that are true in `marks`; an error in `marks` fails its record."""
    drop = Drop(reason)
    return batch.outcomes([
        mark if isinstance(mark, RecordError | TransientError) else record if mark else drop
        for record, mark in zip(batch.records, marks, strict=True)
    ])  # fmt: skip
