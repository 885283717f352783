"""The database interface of the stores' SQL, which several databases share.

Placeholders are SQLite's (`?`, or `?1` for a repeated one). Everything else must mean the same in SQLite 3.24
and in PostgreSQL 13: upserts with `excluded`, no scalar `max`, columns of `DO UPDATE` qualified by their
table, 0 and 1 for booleans. Values of rows are accessed by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

Value: TypeAlias = str | int | float | None
"""A value for a placeholder."""

Row: TypeAlias = Any
"""A row with values by name."""

NO_LIMIT: Final = 1 << 62
"""`LIMIT` without a limit: the databases have no common syntax for it."""


class Rows(Protocol):
    """The rows that a statement found, or the number it changed."""

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

    def execute(self, sql: str, values: Sequence[Value] = ..., /) -> Rows: ...

    def executemany(self, sql: str, values: Iterable[Sequence[Value]], /) -> Rows:
        """Execute the statement with each of these, in order; `rowcount` is their sum."""

    def hold_run(self, run_id: str, *, alone: bool) -> None:
        """Wait until no other transaction holds the run, and hold it until the end of this one.

        Args:
            alone: False shares the run with other holders that also pass False.
        """

    def overwrite_deleted(self) -> None:
        """Overwrite data deleted by this transaction in the files, where that is possible."""


class Database(Protocol):
    """Runs functions in transactions, outside the event loop."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def read(self, function: Callable[Concatenate[Connection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` on one consistent view of the data."""

    async def write(self, function: Callable[Concatenate[Connection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Call `function(connection, …)` in a transaction that is durable when this returns."""
