"""The state store that several machines share: a schema in a PostgreSQL database."""

from __future__ import annotations

from engine.state.postgres.database import PATIENCE, PostgresDatabase
from engine.state.store import StateStore

__all__ = ["PostgresStateStore"]


class PostgresStateStore(StateStore):
    """A `StateStore` in PostgreSQL, which any number of processes may share.

    Writes are durable on the server when a method returns, and are made exactly once even if the connection
    breaks: a method that does not know whether its transaction was committed asks the server. While the
    server does not answer, methods wait and retry.

    Args:
        address: `postgresql://user@host:port/database?option=value`; libpq takes what is missing from its
            environment variables and password file.
        create: False rejects a database without state, for commands that only read.
        patience: seconds for which the server may be unavailable.

    Raises:
        ConfigError: the address is not valid.
        StateReadOnlyError, StateFullError, StateCorruptError, StateVersionError: on entering, or later from
            any method; the message has server, database and remedy.
        StateError: the server cannot be reached on entering, or is unavailable for longer than `patience`; a
            value is not JSON-safe.
    """

    def __init__(self, address: str, *, create: bool = True, patience: float = PATIENCE) -> None:
        super().__init__(PostgresDatabase(address, create=create, patience=patience))
