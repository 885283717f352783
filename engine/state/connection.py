"""What the SQL of the stores asks of a database, so that one text of it serves several.

Placeholders are SQLite's (`?`, or `?1` for one that is used again). Everything else has to mean the same in
SQLite 3.24 and in PostgreSQL 13: upserts with `excluded`, no scalar `max`, columns of `DO UPDATE` named with
their table, 0 and 1 for truth. Rows are asked for their values by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeAlias, TypeVar

__all__ = ["NO_LIMIT", "Connection", "Database", "Row", "Rows", "Value"]

P = ParamSpec("P")
T = TypeVar("T")

Value: TypeAlias = str | int | float | None
"""What is bound to a placeholder."""

Row: TypeAlias = Any
"""A row, which gives its values by name."""

NO_LIMIT: Final = 1 << 62
"""`LIMIT` of everything: neither database can be told so in words that the other one has."""


class Rows(Protocol):
    """What a statement has found, or how many rows it has changed."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Row: ...

    def fetchall(self) -> list[Row]: ...

    def __iter__(self) -> Iterator[Row]: ...


class Connection(Protocol):
    """A connection inside a transaction."""

    @property
    def place(self) -> str:
        """The database, for messages; without secrets."""
        ...

    def execute(self, sql: str, values: Sequence[Value] = ..., /) -> Rows: ...

    def executemany(self, sql: str, values: Iterable[Sequence[Value]], /) -> Rows:
        """The statement with each of these, in order; `rowcount` is their sum."""
        ...

    def hold_run(self, run_id: str, *, alone: bool) -> None:
        """Wait until no other transaction holds the run, and hold it to the end of this one.

        Args:
            alone: False lets others in who do not ask to be alone either.
        """
        ...

    def overwrite_deleted(self) -> None:
        """What this transaction deletes shall not be found in the files, where that is possible."""
        ...


class Database(Protocol):
    """Runs functions in transactions, outside the event loop."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, function: Callable[Concatenate[Connection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` on one consistent view of the data."""
        ...

    async def write(self, function: Callable[Concatenate[Connection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` in a transaction that is on disk when this returns."""
        ...
