"""Find the records that a database or service refuses by halving refused batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from engine.errors import FatalError, RecordError


class RowsRefusedError(Exception):
    """The database refused some rows because of their values; the transaction wrote nothing.

    `kind` is the error type in the dead letter.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


async def deliver_all(
    indices: Sequence[int], write: Callable[[Sequence[int]], Awaitable[None]]
) -> dict[int, RecordError]:
    """Write all rows, each part in its own transaction; return the rows that are refused alone."""
    failures: dict[int, RecordError] = {}
    waiting = [indices] if indices else []
    while waiting:
        part = waiting.pop()
        try:
            await write(part)
        except (RowsRefusedError, RecordError) as error:
            if len(part) == 1:
                failures[part[0]] = RecordError(str(error), kind=error.kind)
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]  # the first half comes first, to keep the order
    return failures


@contextmanager
def replacing(table: str) -> Iterator[None]:
    """Explain where a table refuses the rows that are to replace its own."""
    try:
        yield
    except RowsRefusedError as error:
        raise FatalError(
            f"the new rows cannot replace those of {table}, which are still there: {error}; drop such "
            "records before the sink, or change the table, then start a new run",
            kind="schema",
        ) from error


def unreplaceable(table: str, reason: str) -> FatalError:
    """Return the error for a table whose rows cannot be exchanged."""
    return FatalError(
        f"`mode: replace` cannot exchange the rows of {table}: {reason}; use another mode, or another table",
        kind="schema",
    )
