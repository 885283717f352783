"""The state store that several machines share: a schema in a PostgreSQL database."""

from __future__ import annotations

from engine.state.postgres.database import PATIENCE, PostgresDatabase
from engine.state.store import StateStore

__all__ = ["PostgresStateStore"]


class PostgresStateStore(StateStore):
    """Meets `StateStore`. Any number of processes may share the database.

    What a method wrote is on the server's disk when it returns, and is written once, whatever happens to
    the connection: a method that cannot tell whether its transaction was committed asks the server. While
    the server does not answer, methods wait and try again.

    Args:
        address: `postgresql://user@host:port/database?option=value`; libpq takes what is missing from its
            environment variables and password file.
        create: False refuses a database that nothing has run with, for commands that only look.
        patience: seconds for which the server may be gone.

    Raises:
        ConfigError: the address is not one.
        StateReadOnlyError, StateFullError, StateCorruptError, StateVersionError: on entering, or later from
            any method, with server, database and the remedy in the text.
        StateError: the server cannot be reached on entering, or stays away for longer than `patience`; a
            value is not JSON-safe.
    """

    def __init__(self, address: str, *, create: bool = True, patience: float = PATIENCE) -> None:
        super().__init__(PostgresDatabase(address, create=create, patience=patience))
