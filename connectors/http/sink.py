"""The sink `http`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any, Final, Literal, Self

import anyio
import orjson
from pydantic import BaseModel, Field, field_validator, model_validator

from connectors.http.client import Answer, DamagedError, HttpClient, TooLargeError, open_client
from connectors.http.connection import HttpConnection
from connectors.http.paths import RelativePath, check_path, fill, fill_path, names_in, spelled
from connectors.json_lines import plain
from connectors.tables.isolation import deliver_all
from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, Kind, Params, Sink, component, operational
from engine.contract.plain import model_to_json
from engine.errors import BatchError, FatalError, RecordError, TransientError

_NAME: Final = re.compile(r"[\w.-]+(?:\[-?\d+\])?")
_MAX_ANSWER: Final = 1024 * 1024
_BATCH_BYTES: Final = 8 * 1024 * 1024


class HttpSinkParams(Params):
    """Parameters of the `http` sink."""

    method: Literal["POST", "PUT", "PATCH", "DELETE"] = Field(
        default="POST", description="Method of requests"
    )
    path: RelativePath = Field(
        default="",
        description="Path, appended to the connection's `url`; `{field}` becomes the record's value, "
        "URL-encoded",
    )
    query: dict[str, str | int | float | bool] = Field(default={}, description="Query parameters")
    headers: dict[str, str] = Field(
        default={}, description="Additional headers; put secret ones into the connection"
    )
    body: dict[str, Any] | list[Any] | str | None = Field(
        default=None,
        description="JSON to send for a record, in which `{field}` becomes the record's value (default: "
        "the record)",
    )
    batch: bool = Field(default=False, description="Send many records in one request, as a JSON array")
    wrap: str | None = Field(
        default=None, min_length=1, description="With `batch`: send an object with the array in this field"
    )
    records: int = operational(100, ge=1, le=10_000, description="With `batch`: maximum records per request")
    concurrency: int = operational(4, ge=1, le=64, description="Maximum concurrent requests")
    ok_statuses: list[int] = Field(
        default=[],
        description="Statuses besides 2xx that mean delivered, e.g. 409 if it means that the record exists",
    )
    record_statuses: list[int] = Field(
        default=[400, 409, 413, 422],
        description="Statuses that refuse the record, which becomes a dead letter; others concern the "
        "service",
    )
    retry_statuses: list[int] = Field(
        default=[],
        description="Statuses to retry (also of `record_statuses`), besides 408, 423, 425, 429, 5xx and a "
        "rate limit that is used up",
    )
    health: str | None = operational(
        None,
        description="Path that answers GET with 2xx only while the API accepts records, checked if a single "
        "record only gets 5xx: if it answers so, the record becomes a dead letter (default: that is an "
        "outage)",
    )
    idempotency_header: str | None = Field(
        default="Idempotency-Key",
        description="Header for an idempotency key; null for none",
    )
    html_is_success: bool = Field(
        default=False, description="Accept a web page with status 2xx as success; it may be a login page"
    )
    requests_per_second: float | None = operational(None, gt=0, description="Rate limit (default: none)")
    timeout: float = operational(60.0, gt=0, description="Timeout of a request, in seconds")

    @field_validator("path", "body")
    @classmethod
    def _has_fields(cls, template: Any) -> Any:
        for name in names_in(template):
            if not name:
                raise ValueError("braces enclose the name of a field; write {{ and }} for braces")
            check_path(name)
        return template

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.wrap and not self.batch:
            raise ValueError("`wrap` is for `batch: true`")
        if self.batch and names_in(self.path):
            raise ValueError(
                "with `batch: true` the `path` is the same for all records: it cannot have fields"
            )
        for option in ("query", "headers"):
            for name, value in getattr(self, option).items():
                if found := [field for field in names_in(value) if _NAME.fullmatch(field)]:
                    in_path = option == "query" and not self.batch
                    instead = f": write `?{name}={{{found[0]}}}` in `path`" if in_path else ""
                    message = f"`{option}` is the same for all records: it cannot have fields{instead}"
                    raise ValueError(message)
        return self


@component(Kind.SINK, "http", params=HttpSinkParams, connection=HttpConnection, extra="http")
class HttpSink(Sink[HttpSinkParams]):
    """Sends records to an HTTP API: one per request, or many as a JSON array.

    A record that the API refuses (400, 409, 413, 422) becomes a dead letter; a refused batch is halved until
    the record is found. Timeouts, 429 and 5xx are retried, honouring `Retry-After`. Any other answer (401,
    403, 404, a web page) concerns the service and stops the run. Requests carry an idempotency key, which not
    every API recognises.
    """

    def __init__(self, params: HttpSinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._client: HttpClient | None = None
        self._turns = anyio.Semaphore(params.concurrency)

    @property
    def concurrency(self) -> int:
        """Concurrent batches, if each is one request."""
        return self.params.concurrency if self.params.batch else 1

    @property
    def limits(self) -> BatchLimits:
        """`records` and 8 MiB; one by one, enough to keep all requests busy."""
        records = self.params.records if self.params.batch else 32 * self.params.concurrency
        return BatchLimits(records=records, nbytes=_BATCH_BYTES)

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the HTTP client."""
        self._client = await stack.enter_async_context(
            open_client(
                self._connected(),
                concurrency=self.params.concurrency,
                timeout=self.params.timeout,
                per_second=self.params.requests_per_second,
                clock=self.ctx.clock,
            )
        )
        stack.callback(setattr, self, "_client", None)

    async def describe_target(self) -> str:
        """Return the method and the address, for `plan`, without a request."""
        params = self.params
        return f"{params.method} {self._connected().base}/{params.path.lstrip('/')}".rstrip("/")

    async def is_answering(self) -> bool:
        """Return whether the API answers 2xx at `health`."""
        client, path = self._client, self.params.health
        if client is None or path is None:
            return False
        url = f"{self._connected().base}/{path.lstrip('/')}"
        try:
            answer = await client.send("GET", url, max_answer=_MAX_ANSWER)
        except (TransientError, FatalError, TooLargeError):
            return False
        self.ctx.count("probes")
        return 200 <= answer.status < 300 and not answer.is_page

    async def write(self, batch: Batch) -> None:
        """Send the records.

        Raises:
            BatchError: some were refused or could not be sent now.
            TransientError: nothing could be sent now.
            FatalError: the service refuses all of it.
        """
        if not len(batch):
            return
        failures: dict[int, RecordError | TransientError] = {}
        bodies: dict[int, bytes] = {}
        rows: list[Mapping[str, Any]] = []
        for index, record in enumerate(batch.records):
            row = model_to_json(record) if isinstance(record, BaseModel) else record
            rows.append(row)
            try:
                bodies[index] = self._body(row)
            except RecordError as error:
                failures[index] = error
        keys = batch.keys.to_list()
        if self.params.batch:
            failures |= await self._send_all(list(bodies), bodies, keys)
        else:
            failures |= await self._send_each(rows, bodies, keys)
        first = next(iter(failures.values()), None)
        everything = len(failures) == len(batch) and all(one is first for one in failures.values())
        if everything and isinstance(first, TransientError):
            raise first
        if failures:
            raise BatchError(dict(sorted(failures.items())))

    async def _send_each(
        self, rows: Sequence[Mapping[str, Any]], bodies: Mapping[int, bytes], keys: Sequence[str]
    ) -> dict[int, RecordError | TransientError]:
        """Send each record in its own request, several concurrently, until an answer concerns the service."""
        failures: dict[int, RecordError | TransientError] = {}
        fatal: list[FatalError] = []

        async def send(index: int) -> None:
            try:
                path = fill_path(self.params.path, rows[index])
                async with self._turns:
                    if not fatal:
                        await self._send(path, bodies[index], [keys[index]])
            except (RecordError, TransientError) as error:
                failures[index] = error
            except FatalError as error:
                fatal.append(error)

        async with anyio.create_task_group() as group:
            for index in bodies:
                group.start_soon(send, index)
        if fatal:
            raise fatal[0]
        return failures

    async def _send_all(
        self, indices: list[int], bodies: Mapping[int, bytes], keys: Sequence[str]
    ) -> dict[int, RecordError | TransientError]:
        """Send all in one request; a refused one is halved until the record is found."""
        late: dict[int, TransientError] = {}

        async def send(part: Sequence[int]) -> None:
            content = b"[" + b",".join(bodies[index] for index in part) + b"]"
            if self.params.wrap is not None:
                content = b"{" + orjson.dumps(self.params.wrap) + b":" + content + b"}"
            try:
                async with self._turns:
                    await self._send(self.params.path, content, [keys[index] for index in part])
            except TransientError as error:
                late.update(dict.fromkeys(part, error))

        return {**await deliver_all(indices, send), **late}

    async def _send(self, path: str, content: bytes, keys: Sequence[str]) -> None:
        assert self._client is not None, "enter the sink first"
        params = self.params
        url = self._connected().base + (f"/{path.lstrip('/')}" if path else "")
        headers = dict(params.headers)
        if params.method != "DELETE" or params.body is not None:
            headers.setdefault("Content-Type", "application/json")
        else:
            content = b""
        if params.idempotency_header is not None:
            headers[params.idempotency_header] = self._idempotency_key(path, content, keys)
        query = [(name, spelled(value)) for name, value in params.query.items()]
        try:
            answer = await self._client.send(
                params.method, url, query=query, content=content, headers=headers, max_answer=_MAX_ANSWER
            )
        except (TooLargeError, DamagedError):
            # happens only for a success: the API echoes the records, and failing would send them again
            answer = None
        self.ctx.count("requests")
        if answer is not None:
            self._check(answer, url)

    def _check(self, answer: Answer, url: str) -> None:
        assert self._client is not None
        params, status = self.params, answer.status
        if status in params.ok_statuses:
            return
        said = f"{params.method} {self._connected().base} answered {status}"
        if 200 <= status < 300:
            if answer.is_page and not params.html_is_success:
                raise FatalError(
                    f"{said} with a web page, which may be a login: check `url`, `path` and the credentials "
                    "of the connection, or set `html_is_success: true`"
                )
            return
        if status in params.record_statuses and status not in params.retry_statuses:
            raise RecordError(f"{said}{self._client.excerpt(answer)}", kind=f"Http{status}")
        # the template, not the URL, which contains values of the record
        url = f"{self._connected().base}/{params.path.lstrip('/')}"
        raise self._client.failure(answer, params.method, url, retried=params.retry_statuses)

    def _body(self, row: Mapping[str, Any]) -> bytes:
        document = row if self.params.body is None else fill(self.params.body, row)
        try:
            return orjson.dumps(document, plain)
        except TypeError as error:
            raise RecordError(f"it cannot be written as JSON: {error}", kind="NotJson") from None

    def _idempotency_key(self, path: str, content: bytes, keys: Sequence[str]) -> str:
        digest = sha256("\0".join([self.ctx.run_id, self.ctx.node, path, *keys]).encode("utf-8", "replace"))
        digest.update(content)
        return digest.hexdigest()[:32]

    def _connected(self) -> HttpConnection:
        if not isinstance(self.connection, HttpConnection):
            raise FatalError("the http sink needs a connection with the `url` of the API")
        return self.connection
