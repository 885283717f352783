"""Connections to databases through ADBC, in worker threads, and what their errors mean."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from engine.contract.background import background_tasks
from engine.errors import FatalError, TransientError
from engine.redaction import hide, without_credentials

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]
    from adbc_driver_manager.dbapi import Connection, Cursor

T = TypeVar("T")

_SQLITE: Final = "sqlite"
_PACKAGED: Final = frozenset({"sqlite", "postgresql", "snowflake", "bigquery", "flightsql"})
_BACKTICKS: Final = frozenset({"bigquery", "mysql"})
_NUMBERED: Final = frozenset({"postgresql"})
_AUTH: Final = re.compile(r"authenticat|password|access denied|not authorized", re.I)
_LASTING: Final = re.compile(r"mismatch|unable to open|does not exist|not a database", re.I)
_OPTIONS: Final = re.compile(r"[?&;#]")
_PASSWORD: Final = re.compile(r"(?:password|passwd|pwd|token|secret|key)\s*=\s*([^;&\s]+)", re.I)
_MAX_MESSAGE: Final = 500


class SqlConnection(BaseModel):
    """Connection to a database through an ADBC driver."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    driver: str = Field(
        min_length=1,
        description="`sqlite`, `snowflake`, `bigquery`, … for the package `adbc-driver-NAME`; or a driver "
        "installed on the machine, or the path of its library",
    )
    url: str = Field(
        default="",
        repr=False,
        description="Address of the database in its driver's form; for `sqlite` the file",
    )
    options: dict[str, str] = Field(
        default={}, description="Options of the driver, e.g. `adbc.snowflake.sql.account`"
    )
    secret_options: dict[str, SecretStr] = Field(
        default={}, description="Secret options, e.g. `password`; never shown"
    )
    quote: Literal['"', "`"] | None = Field(
        default=None, description="Quotation mark of names (default: the driver's)"
    )
    placeholder: Literal["?", "$1"] | None = Field(
        default=None, description="Form of parameters in queries (default: the driver's)"
    )

    @property
    def mark(self) -> str:
        """Return the character that quotes names."""
        return self.quote or ("`" if self.driver in _BACKTICKS else '"')

    @property
    def numbered(self) -> bool:
        """Whether parameters are numbered (`$1`) instead of `?`."""
        return (self.placeholder or ("$1" if self.driver in _NUMBERED else "?")) == "$1"

    @property
    def address(self) -> str:
        """The address without user, password and options, for messages; "" if it cannot be parsed."""
        if self.is_sqlite:
            return self.url.partition("?")[0]
        shown = _OPTIONS.split(self.url.rpartition("@")[2], maxsplit=1)[0]
        return "" if "=" in shown else shown

    @property
    def place(self) -> str:
        """Driver and address, for messages."""
        return f"{self.driver} {self.address}".rstrip()

    @property
    def identity(self) -> str:
        """The identity of the database, which does not depend on the password."""
        url = self.url
        for password in (*_PASSWORD.findall(url), *([] if "?" in self._login else [self._password])):
            url = url.replace(password, "") if password else url
        told = [url, *sorted(self.options.items())]
        return f"{self.driver}/{sha256(repr(told).encode()).hexdigest()[:12]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the secrets that no message may show."""
        given = [self.url, self._password, *_PASSWORD.findall(self.url)]
        given += [one.get_secret_value() for one in self.secret_options.values()]
        return tuple(filter(None, {*given, *map(unquote, given)}))

    @property
    def _login(self) -> str:
        return self.url.rpartition("@")[0].rpartition("//")[2]

    @property
    def _password(self) -> str:
        return self._login.partition(":")[2]

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a SQLite file."""
        return self.driver == _SQLITE


class Database:
    """One connection. Calls run in a worker thread and finish even if cancelled."""

    def __init__(self, params: SqlConnection, connection: Connection) -> None:
        self._params = params
        self._connection = connection

    async def columns(self, relation: str) -> list[str]:
        """Return the names of the columns, which must be distinct.

        Raises:
            FatalError: two of them have the same name.
        """
        names: list[str] = []
        query = f"SELECT * FROM {relation} WHERE 1 = 0"  # noqa: S608 - names are quoted, a query is the user's own
        async for batch in self.batches(query):
            names = batch.schema.names
        for name in names:
            if names.count(name) > 1:
                raise FatalError(f"two columns are called {name!r}: rename one in `query`", kind="schema")
        return names

    async def batches(
        self, query: str, values: pa.RecordBatch | None = None, *, rows: int = 0
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield the rows of a query in the driver's batches, after an empty first batch.

        Args:
            rows: number of rows from which SQLite's column types are inferred (default: the driver's).

        Raises:
            TransientError: the database cannot be reached; all rows before were yielded.
            FatalError: the query cannot be read.
        """
        import pyarrow as pa

        options = {"adbc.sqlite.query.batch_rows": str(rows)} if rows and self._params.is_sqlite else {}
        cursor = self._connection.cursor(adbc_stmt_kwargs=options)
        try:
            reader = await self._run(cursor, partial(_execute, cursor, query, values))
            yield pa.RecordBatch.from_pylist([], schema=reader.schema)
            while (batch := await self._run(cursor, partial(next, reader, None))) is not None:
                yield batch
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(cursor.close)

    async def _run(self, cursor: Cursor, work: Callable[[], T]) -> T:
        """Run work in a thread, asking the driver to stop if the task is cancelled."""
        finished = False

        async def interrupt() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                if not finished:
                    with suppress(Exception):  # a driver without this feature finishes instead
                        cursor.adbc_cancel()

        def outcome() -> T:
            with translated(self._params):
                return work()

        async with background_tasks() as group:
            group.start_soon(interrupt)
            try:
                return await anyio.to_thread.run_sync(outcome)
            finally:
                finished = True


@asynccontextmanager
async def opened(params: SqlConnection) -> AsyncIterator[Database]:
    """Open a connection for the duration of the block.

    Raises:
        TransientError: the database cannot be reached.
        FatalError: the driver or file does not exist, or the credentials are wrong.
    """
    connection = await anyio.to_thread.run_sync(_connect, params)
    try:
        yield Database(params, connection)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(connection.close)


def _connect(params: SqlConnection) -> Connection:
    from adbc_driver_manager import dbapi

    options = params.options | {
        name: value.get_secret_value() for name, value in params.secret_options.items()
    }
    if params.url:
        options["uri"] = _existing(params.url) if params.is_sqlite else params.url
    with translated(params):
        return dbapi.connect(driver=_library(params.driver), db_kwargs=options, autocommit=True)


def _library(driver: str) -> str:
    """Return the library of the package `adbc-driver-NAME`; the driver manager finds others itself."""
    package = f"adbc_driver_{driver}"
    if not re.fullmatch(r"\w+", driver) or find_spec(package) is None:
        return driver
    return str(import_module(package)._driver_path())


def _existing(url: str) -> str:
    """Return the address of an existing SQLite file, since SQLite would create a missing one."""
    path = Path(unquote(urlsplit(url).path) if url.startswith("file:") else url).expanduser()
    if not path.is_file():
        raise FatalError(f"there is no file {path}")
    return url if url.startswith("file:") else f"{path.absolute().as_uri()}?mode=rw"


def _execute(cursor: Cursor, query: str, values: pa.RecordBatch | None) -> pa.RecordBatchReader:
    cursor.execute(query, values)
    return cursor.fetch_record_batch()


@contextmanager
def translated(params: SqlConnection) -> Iterator[None]:
    """Translate a driver's errors in the block.

    Raises:
        TransientError: the connection broke or timed out.
        FatalError: for any other reason.
    """
    import pyarrow as pa
    from adbc_driver_manager import dbapi

    try:
        yield
    except (dbapi.Error, pa.ArrowException, OSError) as error:
        raise _from_adbc(error, params) from None


def _how_to_get(driver: str) -> str:
    if not re.fullmatch(r"\w+", driver):
        return "check the path of its library"
    # anybody may publish a package with another driver's name
    install = f"pip install adbc-driver-{driver}" if driver in _PACKAGED else f"dbc install {driver}"
    return f"{install}, or give the path of its library"


def _from_adbc(error: Exception, params: SqlConnection) -> Exception:
    from adbc_driver_manager import AdbcStatusCode as Status

    status: Any = getattr(error, "status_code", None)
    text = without_credentials(hide(" ".join(str(error).split()), params.secrets))[:_MAX_MESSAGE]
    if status == Status.NOT_FOUND and "Could not load" in text:
        return FatalError(f"there is no ADBC driver {params.driver!r}: {_how_to_get(params.driver)}")
    # an invalid query is quoted, and may have a column `password`
    said = status != Status.INVALID_ARGUMENT and _AUTH.search(text)
    if status in (Status.UNAUTHENTICATED, Status.UNAUTHORIZED) or said:
        return FatalError(f"{params.place}: {text}; check `url` and the options", kind="auth")
    if "parameter count mismatch" in text:
        remedy = "`query` cannot have parameters of the database: write the values, or `${…}` of the file"
        return FatalError(f"{params.place}: {text}; {remedy}", kind="schema")
    if "mismatch" in text:
        remedy = "; a column has values of several types: cast it in `query`, or raise `split_rows`"
        return FatalError(f"{params.place}: {text}{remedy}", kind="schema")
    passing = status in (None, Status.IO, Status.TIMEOUT, Status.CANCELLED)
    if passing and not _LASTING.search(text):
        return TransientError(f"{params.place}: {text}")
    return FatalError(f"{params.place}: {text}", kind="schema")
