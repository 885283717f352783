"""A connection to PostgreSQL, with the transaction statements around those of the stores."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, Final, TypeAlias

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.types.numeric import Int8Dumper

from engine.errors import StateError, StateReadOnlyError
from engine.state.address import checked, place_of, unusable
from engine.state.connection import Rows, Value

SCHEMA: Final = "odw_engine"
RECEIPTS: Final = f"{SCHEMA}.receipts"
"""The number of the last transaction of each connection, written by that transaction."""

Receipt: TypeAlias = tuple[str, int]
"""A connection's name, and the number of its transaction."""

_OLDEST: Final = 130_000

# It warns about every broken connection, which is reported elsewhere; this silences it without a logging
# set-up.
logging.getLogger("psycopg").addHandler(logging.NullHandler())

# A vanished server is noticed within 20 s. The address may override this.
_PARAMETERS: Final[dict[str, str | int]] = {
    "application_name": "odw-engine",
    "client_encoding": "utf8",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}

# A client that vanished during a transaction must not keep its locks, and others must not wait longer for
# them.
_SETTINGS: Final = f"""
SET search_path TO {SCHEMA}, pg_temp;
SET idle_in_transaction_session_timeout TO '20s';
SET lock_timeout TO '40s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
""".encode()

_BEGIN_READING: Final = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_BEGIN_WRITING: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"

# In one message with BEGIN, so that it costs no round trip. Not pg_xact_status(): after a crash, a server may
# reuse the id of a lost transaction.
_SIGN: Final = f"""
INSERT INTO {RECEIPTS} (connection, number, signed_at) VALUES ('%s', %d, now())
ON CONFLICT (connection) DO UPDATE SET number = excluded.number, signed_at = excluded.signed_at
RETURNING tableoid::bigint AS home
"""  # noqa: S608 - only a constant is formatted in

# Waits for a transaction that is still open because the server has not noticed that the client is gone.
_LOOK_UP: Final = f"""
INSERT INTO {RECEIPTS} (connection, number, signed_at) VALUES (?, 0, now())
ON CONFLICT (connection) DO UPDATE SET signed_at = excluded.signed_at RETURNING number
"""  # noqa: S608

_PLACEHOLDER: Final = re.compile(r"\?(\d*)")


def parameters_of(address: str) -> dict[str, Any]:
    """Return libpq's parameters for an address, with our defaults.

    Raises:
        ConfigError: it is not a valid address.
    """
    try:
        given = conninfo_to_dict(checked(address))
    except psycopg.ProgrammingError:
        raise unusable() from None  # its message may quote the password
    return {**_PARAMETERS, **given}


def connect(address: str) -> PostgresConnection:
    """Open a new connection.

    Raises:
        StateError: the server is too old, or the database does not use UTF-8.
        StateReadOnlyError: the server is a standby.
        psycopg.Error: the connection failed.
    """
    place = place_of(address)
    raw = psycopg.connect(
        **parameters_of(address), autocommit=True, cursor_factory=psycopg.RawCursor, row_factory=dict_row
    )
    try:
        _check(raw.info, place)
        # one width for all numbers, so that a statement is prepared once and not for each combination
        raw.adapters.register_dumper(int, Int8Dumper)
        raw.execute(_SETTINGS, prepare=False)
    except BaseException:
        raw.close()
        raise
    return PostgresConnection(raw, place)


def _check(info: psycopg.ConnectionInfo, place: str) -> None:
    if info.server_version < _OLDEST:
        raise StateError(f"{place} is PostgreSQL {info.server_version // 10_000}; 13 or newer is needed")
    encoding = info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StateError(f"{place} has the encoding {encoding}; create a database with ENCODING 'UTF8'")
    if info.parameter_status("in_hot_standby") == "on":
        raise StateReadOnlyError(
            f"{place} is a read-only standby: use the primary server; with several hosts in the address, "
            "?target_session_attrs=read-write finds it"
        )


class PostgresConnection:
    """Implements `Connection`, between `begin` and `commit` or `rollback`.

    Attributes:
        home: oid of the `RECEIPTS` table of the opened schema, to detect a replaced schema; see `find_home`.
            None until it is known.
    """

    home: int | None = None

    def __init__(self, raw: psycopg.Connection[DictRow], place: str) -> None:
        self._raw = raw
        self._name = secrets.token_hex(8)
        self._number = 0
        self.place = place

    def execute(self, sql: str, values: Sequence[Value] = (), /) -> Rows:
        return self._raw.execute(_native(sql), values)

    def executemany(self, sql: str, values: Iterable[Sequence[Value]], /) -> Rows:
        cursor = self._raw.cursor()
        cursor.executemany(_native(sql), list(values))  # sent together, in one round trip
        return cursor

    def hold_run(self, run_id: str, *, alone: bool) -> None:
        # not a row lock: with those an exclusive request may starve while shared ones keep coming
        lock = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        self.execute(f"SELECT {lock}(hashtextextended(?, 0))", (f"{SCHEMA}/{run_id}",))

    def overwrite_deleted(self) -> None:
        """Do nothing: VACUUM does it later."""

    def begin_reading(self) -> None:
        """Begin a transaction with a consistent view of the data."""
        self._raw.execute(_BEGIN_READING, prepare=False)

    def begin_setup(self) -> None:
        """Begin a transaction that creates the tables, including that of receipts; it is idempotent."""
        self._raw.execute(_BEGIN_WRITING.encode(), prepare=False)

    def begin_writing(self) -> Receipt:
        """Begin a write transaction, which writes its receipt. Each statement sees earlier commits.

        Raises:
            StateError: the schema was replaced since it was opened, so writes would be lost.
        """
        self._number += 1
        sign = _SIGN % (self._name, self._number)
        try:
            cursor = self._raw.execute(f"{_BEGIN_WRITING};{sign}".encode(), prepare=False)
        except psycopg.errors.UndefinedTable as error:
            raise self._gone() from error
        cursor.nextset()
        row = cursor.fetchone()
        if self.home is not None and (row is None or row["home"] != self.home):
            raise self._gone()
        return self._name, self._number

    def find_home(self) -> int:
        """Find `home`, inside a transaction."""
        row = self.execute("SELECT ?::text::regclass::oid::bigint AS home", (RECEIPTS,)).fetchone()
        return int(row["home"])

    def _gone(self) -> StateError:
        return StateError(
            f"the schema {SCHEMA} of {self.place} was removed or replaced while in use, so nothing more can "
            "be stored: restore it, or start over"
        )

    def commit(self) -> None:
        self._raw.execute(b"COMMIT", prepare=False)

    def has_committed(self, receipt: Receipt) -> bool:
        """Return whether a transaction of a lost connection was committed."""
        name, number = receipt
        row = self.execute(_LOOK_UP, (name,)).fetchone()
        return bool(row["number"] == number)

    def tidy(self) -> bool:
        """Roll back an open transaction; return False when the connection can no longer be used."""
        if self._raw.info.transaction_status is not TransactionStatus.IDLE:
            try:
                self._raw.rollback()
            except psycopg.Error:
                return False
        return not self._raw.closed

    def close(self) -> None:
        self._raw.close()


@lru_cache(maxsize=512)
def _native(sql: str) -> bytes:
    """Convert SQLite's placeholders to PostgreSQL's: `?` and `?2` become `$1` and `$2`."""
    number = count(1)
    return _PLACEHOLDER.sub(lambda match: f"${match[1] or next(number)}", sql).encode()
