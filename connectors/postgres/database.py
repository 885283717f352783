"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.postgres.copying import array_text
from connectors.tables.columns import Column, Dialect, ValueType
from connectors.tables.isolation import RowsRefusedError
from connectors.tables.names import quote_table
from engine.errors import FatalError, TransientError

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.AsyncConnection[tuple[Any, ...]]

DIALECT: Final = Dialect(
    database="PostgreSQL",
    types={
        ValueType.BOOLEAN: "boolean",
        ValueType.INTEGER: "bigint",
        ValueType.FLOAT: "double precision",
        ValueType.NUMERIC: "numeric",
        ValueType.TEXT: "text",
        ValueType.JSON: "jsonb",
        ValueType.TIMESTAMP: "timestamptz",
        ValueType.DATE: "date",
        ValueType.BYTES: "bytea",
    },
    integers={"SMALLINT": 16, "INTEGER": 32, "BIGINT": 64},
    known={
        ValueType.BOOLEAN: ("BOOLEAN",),
        ValueType.FLOAT: ("REAL", "DOUBLE PRECISION"),
        ValueType.NUMERIC: ("NUMERIC",),
        ValueType.TEXT: ("TEXT", "CHARACTER VARYING", "CHARACTER"),
        ValueType.JSON: ("JSONB", "JSON"),
        ValueType.TIMESTAMP: ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITHOUT TIME ZONE"),
        ValueType.DATE: ("DATE",),
        ValueType.BYTES: ("BYTEA",),
    },
    max_name=63,
    reserved=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
    array=array_text,
)

# a vanished server is noticed within 20 s, unless the URL overrides this
_PARAMETERS: Final[dict[str, str]] = {
    "application_name": "odw-engine",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "2",
    "tcp_user_timeout": "20000",
}
_SETTINGS: Final = b"SET TimeZone TO 'UTC'; SET DateStyle TO ISO; SET IntervalStyle TO postgres"

# errcodes of PostgreSQL, appendix A: the two digits of a class, or the whole code
_PASSING: Final = ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "53300", "40001", "40P01", "55P03")
_TRIGGER: Final = "P0001"
_UNSUPPORTED: Final = "0A000"
_FUNCTION: Final = re.compile(r"PL/pgSQL function ([\w.\"]+)\(")
_ROW: Final = ("22", "23", "54000", _TRIGGER)
_REMEDIES: Final = {
    "42501": "grant the user what it needs",
    "25006": "use the primary server",
    "53100": "free some space on the server, then resume the run",
    "42P10": "a merge needs a unique index on the `key`: CREATE UNIQUE INDEX ON {table} ({key})",
    "428C9": "leave the field out before the sink: map: {{drop: […]}}",
    "57014": "raise `statement_timeout`, or write fewer `records` at once",
    "3D000": "check the database in `url`",
    "3F000": "create the schema first",
}
_AUTH: Final = re.compile(r"authentication failed|no pg_hba|no password|does not exist|not permitted", re.I)
# libpq repeats the address, and asks a question that the message already answers
_NOISE: Final = re.compile(
    r"connection failed: |connection to server at .*? failed: |\s*Is the server running [^?]*\?"
)
# permanent failures: an option that libpq rejects, or a failed TLS negotiation
_OPTION: Final = re.compile(
    r"does not support SSL|certificate verify failed|does not match host name|self.signed certificate"
    r"|invalid \S+ value|bad value for|invalid port"
    r"|SSL support is not compiled in|certificate .* not exist",
    re.I,
)
_UNKNOWN_OPTION: Final = re.compile(r'invalid URI query parameter: "(\w+)"')
_QUOTED: Final = re.compile(r"""(["'])[^\n]*\1""")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(:\d*)?")
_COPY_COLUMN: Final = re.compile(r"^COPY \S+, line \d+, column ([^:]+)")


def _has_one_meaning(url: str) -> bool:
    """Return whether libpq and URL parsers agree on the end of a password.

    They end the user part at different characters. If they disagree, part of the password would be taken for
    the host and shown.
    """
    location, _, options = url.partition("://")[2].partition("?")
    login, _, place = location.rpartition("@")
    hosts = place.partition("/")[0].split(",")
    odd = "#" in url or "/" in login or "@" in login or ("@" in options and not login)
    return not odd and all(map(_HOST.fullmatch, hosts))


class PostgresConnection(BaseModel):
    """Connection to a PostgreSQL database."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        repr=False,
        description="`postgresql://USER@HOST:PORT/DATABASE`, with the options that libpq knows "
        "(`?sslmode=require`)",
    )
    password: SecretStr | None = Field(
        default=None, description="Password (default: the one in `url`, else libpq's: PGPASSWORD, ~/.pgpass)"
    )

    @field_validator("url")
    @classmethod
    def _is_postgres(cls, url: str) -> str:
        if not url.startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        if not _has_one_meaning(url):
            raise ValueError(
                "must be postgresql://USER@HOST:PORT/DATABASE?OPTION=VALUE, with %40 for @, %2F for /, "
                "%3F for ? and %23 for # in a password"
            )
        return url

    @property
    def place(self) -> str:
        """Host and database, for messages."""
        parts = urlsplit(self.url)
        return f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}"


async def connect(connection: PostgresConnection) -> Connection:
    """Open a connection, in autocommit.

    Raises:
        TransientError: the server cannot be reached.
        FatalError: the URL or the credentials are wrong, or the database does not exist.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        given = conninfo_to_dict(connection.url)
    except psycopg.ProgrammingError as error:
        option = _UNKNOWN_OPTION.search(str(error))
        raise FatalError(
            "the `url` of the connection is not valid: "
            + (f"libpq has no option {option[1]!r}; " if option else "")
            + "write postgresql://HOST:PORT/DATABASE?OPTION=VALUE, user and password before HOST, with %40 "
            "for @, %2F for / and %3F for ? in a password"
        ) from None
    if connection.password is not None:
        given["password"] = connection.password.get_secret_value()
    options: dict[str, Any] = {**_PARAMETERS, **given}
    try:
        opened = await psycopg.AsyncConnection.connect(**options, autocommit=True)
    except psycopg.Error as error:
        text = " ".join(_NOISE.sub("", str(error)).split())
        if _OPTION.search(text):
            message = f"cannot connect to {connection.place}: {text}; check the options in `url`"
            raise FatalError(message) from None
        if _AUTH.search(text):
            message = f"{connection.place} refuses the connection: {text}; check `url` and `password`"
            raise FatalError(message, kind="auth") from None
        raise TransientError(f"cannot connect to {connection.place}: {text}") from None
    try:
        await opened.execute(_SETTINGS)
    except BaseException:
        await close(opened)
        raise
    return opened


def is_idle(connection: Connection | None) -> bool:
    """Return whether a connection is open and in no transaction."""
    from psycopg.pq import TransactionStatus

    return connection is not None and connection.info.transaction_status == TransactionStatus.IDLE


async def close(connection: Connection) -> None:
    """Close a connection, also while a task is being cancelled."""
    with anyio.CancelScope(shield=True):
        await connection.close()


@asynccontextmanager
async def connected(connection: PostgresConnection) -> AsyncIterator[Connection]:
    """Open a connection for the duration of the block. Raises as `connect` and `translated`."""
    opened = await connect(connection)
    try:
        with translated(connection.place):
            yield opened
    finally:
        await close(opened)


@contextmanager
def translated(place: str, **names: str) -> Iterator[None]:
    """Translate psycopg's errors in the block; `names` are used in remedies.

    Raises:
        RowsRefusedError: PostgreSQL refused the rows.
        TransientError: the connection broke, or another transaction conflicted.
        FatalError: for any other reason.
    """
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise _from_postgres(error, place, names) from None
    except UnicodeEncodeError:
        raise RowsRefusedError("the record has text that is not valid Unicode", kind="ValueRefused") from None


def _from_postgres(error: psycopg.Error, place: str, names: dict[str, str]) -> Exception:
    import psycopg

    code = error.sqlstate or ""
    text = " ".join((error.diag.message_primary or str(error)).split()).rstrip(".")
    if code.startswith(_PASSING) or (not code and isinstance(error, psycopg.OperationalError)):
        return TransientError(f"{place}: {text}")
    if code.startswith(_ROW) or isinstance(error, psycopg.DataError):
        return _refused(error, code, text)
    if code == "42P10" and "ON CONFLICT" not in text:
        code = "428C9"  # a generated column: COPY reports another code than INSERT
    if code == _UNSUPPORTED and error.diag.message_detail:
        text += f" ({error.diag.message_detail.rstrip('.')})"  # names what depends on the table
    remedy = _REMEDIES.get(code, "").format_map({"table": "TABLE", "key": "KEY", **names})
    return FatalError(
        f"{place}: {text}{'; ' if remedy else ''}{remedy}", kind="auth" if code == "42501" else "schema"
    )


def _refused(error: psycopg.Error, code: str, text: str) -> RowsRefusedError:
    """Make an error without values: PostgreSQL quotes a wrong value, but for a constraint only its name."""
    if code == _TRIGGER:  # its text comes from the user's trigger, and may contain values
        function = _FUNCTION.match(error.diag.context or "")
        said = f"PostgreSQL refused the row: {function[1] if function else 'a trigger'} raised an exception"
        return RowsRefusedError(said, kind="ConstraintViolated")
    if not code.startswith("23"):
        text = _QUOTED.sub("…", text)
    column = error.diag.column_name
    if column is None and (found := _COPY_COLUMN.match(error.diag.context or "")):
        column = found[1]
    kind = "ConstraintViolated" if code.startswith("23") else "ValueRefused"
    where = f" (column {column})" if column and column not in text else ""
    return RowsRefusedError(f"PostgreSQL refused the row: {text}{where}", kind=kind)


async def table_columns(connection: Connection, table: str) -> dict[str, Column]:
    """Return the columns of a table; empty if it does not exist."""
    cursor = await connection.execute(
        "SELECT attname, format_type(atttypid, atttypmod), atthasdef OR attidentity <> '' FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [quote_table(table)],
    )
    found = await cursor.fetchall()
    return {name: DIALECT.column(name, sql, default=default) for name, sql, default in found}
