"""Statements for ClickHouse's HTTP interface, and what its errors mean."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import anyio
import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.addresses import address_without_credentials, http_address
from connectors.tables.isolation import RowsRefusedError
from connectors.transport import connection_failure, transport_to
from engine.contract.imports import load_modules
from engine.errors import FatalError, TransientError

if TYPE_CHECKING:
    import httpx


class ClickHouseConnection(BaseModel):
    """Connection to the HTTP interface of a ClickHouse server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="`http://HOST:8123`, or `https://HOST:8443` with TLS")
    database: str = Field(default="default", min_length=1, description="Database of tables named without one")
    user: str = Field(default="default", description="User")
    password: SecretStr = Field(default=SecretStr(""), description="Password of the user")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        url = http_address(address_without_credentials(url))
        if "?" in url or "#" in url:
            raise ValueError("must end before the ?: the other fields say the rest")
        return url

    @property
    def place(self) -> str:
        """Server and database, for messages."""
        return f"{self.url}, database {self.database}"


_TIMEOUT: Final = 300.0
_MAX_ANSWER: Final = 64 * 1024 * 1024
_ERROR: Final = re.compile(r"Code: (\d+)\. DB::Exception: (.*?)(?:\(([A-Z][A-Z0-9_]+)\)|$)", re.S)
_COLUMN: Final = re.compile(r"while reading the value of key ([^)]*)\)")
_CONSTRAINT: Final = re.compile(r"Constraint (`[^`]*`)")

# from ClickHouse's ErrorCodes.cpp
_ROW: Final = frozenset({6, 25, 26, 27, 28, 33, 38, 41, 53, 69, 70, 72, 117, 130, 131, 321, 349, 376, 407,
                         427, 441, 467, 469, 675, 676, 691})  # fmt: skip
_PASSING: Final = frozenset({159, 202, 203, 209, 210, 225, 236, 241, 242, 252, 285, 319, 394, 425, 439, 999})
_AUTH: Final = frozenset({192, 193, 194, 195, 497, 516})
_REMEDIES: Final = {
    48: "`mode: replace` needs a database whose engine is Atomic, as is the default",
    81: "create the database first, or check `database` of the connection",
    164: "the user may only read: give it another profile",
    192: "check `user` and `password` of the connection",
    193: "check `user` and `password` of the connection",
    194: "check `user` and `password` of the connection",
    243: "free some space on the server, then resume the run",
    497: "grant the user what it needs",
    516: "check `user` and `password` of the connection",
    524: "the column is in the table's sorting key: make the table with the other type",
}


def text(value: str) -> str:
    """A string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\0", "\\0") + "'"


class Client:
    """Sends statements, one per request. Connects at the first one.

    Every method raises TransientError if the server cannot be reached or may succeed later, FatalError if the
    user has to fix something, and RowsRefusedError if the server rejects the rows.
    """

    def __init__(self, connection: ClickHouseConnection) -> None:
        self._connection = connection
        self._http: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close the connection, also while a task is being cancelled."""
        http, self._http = self._http, None
        if http is not None:
            with anyio.CancelScope(shield=True):
                await http.aclose()

    async def fetch(self, query: str) -> list[list[Any]]:
        """Return the rows of a query."""
        answer = await self._send(f"{query} FORMAT JSONCompact".encode(), "")
        try:
            rows: list[list[Any]] = orjson.loads(answer)["data"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            url = self._connection.url
            raise FatalError(f"{url} answered 200, but not like ClickHouse: check `url`") from None
        return rows

    async def execute(self, statement: str, data: bytes = b"", query_id: str = "") -> None:
        """Execute a statement; `data` is the body of an INSERT."""
        body = statement.encode()
        await self._send(body + b"\n" + data if data else body, query_id)

    async def _send(self, body: bytes, query_id: str) -> bytes:
        # imported lazily: httpx and aiohttp take 0.2 s
        await load_modules("httpx", "httpx_aiohttp")
        import aiohttp
        import httpx

        if self._http is None:
            self._http = await anyio.to_thread.run_sync(_build, self._connection)
        params = {"database": self._connection.database, "wait_end_of_query": "1"}
        if query_id:
            params["query_id"] = query_id
        url = self._connection.url
        try:
            # also from the first byte of an answer on: aiohttp waits forever for one with an invalid chunk
            with anyio.fail_after(_TIMEOUT):
                async with self._http.stream("POST", url + "/", params=params, content=body) as got:
                    answer = await self._read(got)
        except TimeoutError:
            raise TransientError(f"{url} did not answer within {_TIMEOUT:g} s") from None
        except httpx.DecodingError:
            raise TransientError(f"{url} answered with a damaged body") from None
        except (httpx.TransportError, aiohttp.ClientError, ConnectionError) as error:
            lost = TransientError(f"lost the connection to {url} ({type(error.__cause__ or error).__name__})")
            raise connection_failure(error, url) or lost from None
        if got.status_code != 200:
            raise self._failed(got.status_code, answer)
        return answer

    async def _read(self, got: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in got.aiter_bytes():
            size += len(part)
            if size > _MAX_ANSWER:
                raise FatalError(f"{self._connection.place}: an answer has more than 64 MiB")
            parts.append(part)
        return b"".join(parts)

    def _failed(self, status: int, answer: bytes) -> Exception:
        place = self._connection.place
        said = _ERROR.search(answer.decode("utf-8", "replace"))
        if said is None:
            message = f"{self._connection.url} answered {status}, and not as ClickHouse does"
            return TransientError(message) if status >= 500 else FatalError(f"{message}: check `url`")
        code, name = int(said[1]), said[3] or f"code {said[1]}"
        if code in _ROW:
            return _refused(code, name, answer.decode("utf-8", "replace"))
        # a syntax error quotes the statement, which contains the rows
        why = "" if code == 62 else " ".join(said[2].split())[:400].rstrip(". ")
        message = f"{place}: {why} ({name})"
        if code in _PASSING:
            return TransientError(message)
        if code in _AUTH:  # ClickHouse's own message would reveal which users exist and how they log in
            message = f"{place} refuses the user {self._connection.user} ({name})"
        remedy = _REMEDIES.get(code, "")
        return FatalError(
            f"{message}{'; ' if remedy else ''}{remedy}", kind="auth" if code in _AUTH else "schema"
        )


def _refused(code: int, name: str, said: str) -> RowsRefusedError:
    """Make an error without ClickHouse's message, which quotes the value and its neighbours."""
    column = _COLUMN.search(said)
    constraint = _CONSTRAINT.search(said) if code == 469 else None
    where = f" (column {column[1]})" if column else f" (constraint {constraint[1]})" if constraint else ""
    kind = "ConstraintViolated" if code in (349, 469) else "ValueRefused"
    return RowsRefusedError(f"ClickHouse refused the row: {name}{where}", kind=kind)


def _build(connection: ClickHouseConnection) -> httpx.AsyncClient:
    import httpx

    return httpx.AsyncClient(
        transport=transport_to(connection.url, connections=1, keepalive=8.0),
        auth=httpx.BasicAuth(connection.user, connection.password.get_secret_value()),
        headers={"User-Agent": "odw-engine"},
        timeout=_TIMEOUT,
    )
