"""A client for an ingest service's dead letters: list them, and send their records again."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.alias_generators import to_snake

from engine.contract.addresses import is_loopback
from engine.contract.types import JsonValue
from engine.errors import ServiceError

if TYPE_CHECKING:
    import httpx

PAGE = 500
TIMEOUT = 30.0
REQUEST_BYTES = 512 * 1024
IDS_A_REQUEST = 50

M = TypeVar("M", bound=BaseModel)


_TOPIC = "DeadLetterQueue"


class ServiceDeadLetter(BaseModel):
    """A dead letter of the service; see `GET /dead-letters`.

    The original service used camel case for records rejected by its API, and snake case for records rejected
    by a transform. Both are read. It assigned neither ids nor states: their ids are derived from the content,
    and they are open.
    """

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, given: object) -> object:
        if not isinstance(given, dict) or "dead_letter_id" in given:
            return given
        ours = {to_snake(name): value for name, value in given.items() if isinstance(name, str)}
        record = ours.get("original_record")
        content = json.dumps([record, ours.get("topic")], sort_keys=True, default=str)
        known = {
            "dead_letter_id": str(uuid.uuid5(uuid.NAMESPACE_OID, content)),
            "model": str(ours.get("topic") or "").removesuffix(_TOPIC),
            "record_id": record.get("id") if isinstance(record, dict) else None,
            "status": "open",
        }
        return {**known, **ours}

    dead_letter_id: str
    model: str
    record_id: str | None = None
    original_record: dict[str, JsonValue]
    error_type: str
    error_message: str
    failed_at: str
    source: str
    status: str
    reason: str | None = None
    pipeline: str | None = None
    run: str | None = None
    node: str | None = None
    key: str | None = None


class _Page(BaseModel):
    items: list[ServiceDeadLetter]
    total: int


class DeadRow(BaseModel):
    """A record that died again; `index` is its position in the request."""

    index: int = Field(ge=0)
    error_type: str
    error_message: str


class _Newest(BaseModel):
    newest: int = Field(ge=0)


class _Results(BaseModel):
    written: int = Field(ge=0)
    dead: list[DeadRow]


@dataclass(frozen=True, slots=True)
class ServiceClient:
    """A client of one service.

    Methods raise ServiceError when it cannot be reached, rejects the request, or gives an unexpected answer.
    """

    http: httpx.AsyncClient
    url: str

    async def check(self) -> None:
        """Check that the service answers."""
        answer = await self._request("GET", "/dead-letters", params={"limit": "0"})
        _parsed(_Page, answer, self.url)

    async def letters(
        self,
        *,
        status: str = "",
        pipeline: str = "",
        run: str = "",
        node: str = "",
        ids: Sequence[str] = (),
        keys: Sequence[str] = (),
    ) -> AsyncGenerator[ServiceDeadLetter, None]:
        """Yield dead letters, oldest first, fetched in pages; "" and empty mean any.

        An older service ignores unknown filters, and so yields more.
        """
        asked = {"status": status, "pipeline": pipeline, "run": run, "node": node}
        chosen = {name: value for name, value in asked.items() if value}
        for some_ids, some_keys in product(_parts(ids), _parts(keys)):
            offset, is_last = 0, False
            while not is_last:
                place = {"limit": str(PAGE), "offset": str(offset)}
                query = {**place, **chosen, "id": some_ids, "key": some_keys}
                answer = await self._request("GET", "/dead-letters", params=query)
                page = _parsed(_Page, answer, self.url)
                for letter in page.items:
                    yield letter
                offset += len(page.items)
                is_last = not page.items or offset >= page.total

    async def newest(self, model: str) -> int | None:
        """Return the number of the latest delivery of a model; None if the service does not report it."""
        try:
            return _parsed(
                _Newest, await self._request("GET", "/deliveries", params={"model": model}), self.url
            ).newest
        except ServiceError:  # a different service; sending will find any other problem
            return None

    async def still_open(self, ids: Sequence[str]) -> set[str]:
        """Return the given dead letters that are still open, by their ids."""
        if not ids:
            return set()
        return {letter.dead_letter_id async for letter in self.letters(status="open", ids=ids)}

    async def send(
        self, model: str, records: Sequence[JsonValue], *, unless_newer: int | None = None
    ) -> list[DeadRow]:
        """Post records as replays; return those that died, by position.

        Args:
            unless_newer: a result of `newest`; rows delivered after it are kept.
        """
        scope = f"dlq-{uuid.uuid4().hex}"
        guard = {} if unless_newer is None else {"X-ODW-Unless-Newer": str(unless_newer)}
        dead: list[DeadRow] = []
        start = 0
        for rows in _requests(records):
            answer = await self._request(
                "POST",
                f"/ingest/{model}",
                content=b"[" + b",".join(rows) + b"]",
                headers={
                    "Content-Type": "application/json",
                    "X-ODW-Results": "per-record",
                    "X-ODW-Delivery": "replay",
                    "X-ODW-Epoch": f"{scope} 1",
                    "Idempotency-Key": f"{scope}-{start}",
                    **guard,
                },
            )
            dead += (
                row.model_copy(update={"index": row.index + start})
                for row in _parsed(_Results, answer, self.url).dead
            )
            start += len(rows)
        return dead

    async def close(self, ids: Sequence[str], status: Literal["discard", "recovered"], reason: str) -> None:
        """Discard dead letters by their ids, or mark them as recovered."""
        content = orjson.dumps({status: list(ids), "reason": reason})
        headers = {"Content-Type": "application/json"}
        await self._request("POST", "/dead-letters", content=content, headers=headers)

    async def _request(self, method: str, path: str, **options: object) -> bytes:
        import httpx

        try:
            response = await self.http.request(method, path, **options)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise ServiceError(f"cannot reach the ingest service at {self.url} ({kind})") from error
        if response.status_code in (401, 403):
            raise ServiceError(f"{self.url}{path} answered {response.status_code}: the token is wrong")
        if response.status_code != 200:
            raise ServiceError(f"{self.url}{path} answered {response.status_code}")
        return response.content


@asynccontextmanager
async def open_service(url: str, token: str = "") -> AsyncGenerator[ServiceClient, None]:
    """Open a client for the duration of the block; nothing is sent before its first use."""
    import httpx  # imported here: it takes a tenth of a second, and most verbs do not need it

    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"  # without a user or a key in the query
    auth = httpx.BasicAuth(parts.username or "", parts.password or "") if "@" in parts.netloc else None
    async with httpx.AsyncClient(
        base_url=shown,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        auth=None if token else auth,
        params=httpx.QueryParams(parts.query),
        timeout=TIMEOUT,
        trust_env=not is_loopback(parts.hostname or ""),
    ) as http:
        yield ServiceClient(http, shown)


def _parts(names: Sequence[str]) -> list[list[str]]:
    """Divide names into those of one request each; one without names if there are none."""
    starts = range(0, max(len(names), 1), IDS_A_REQUEST)
    return [list(names[start : start + IDS_A_REQUEST]) for start in starts]


def _requests(records: Sequence[JsonValue]) -> list[list[bytes]]:
    """Yield the records as JSON, divided into requests by count and size."""
    requests: list[list[bytes]] = []
    room = 0
    for record in records:
        row = _dumps(record)
        if not requests or len(row) > room or len(requests[-1]) >= PAGE:
            requests.append([])
            room = REQUEST_BYTES
        requests[-1].append(row)
        room -= len(row) + 1
    return requests


def _dumps(record: JsonValue) -> bytes:
    try:
        return orjson.dumps(record)
    except TypeError:  # an integer beyond 64 bits, or a lone surrogate
        return json.dumps(record, separators=(",", ":")).encode()


def _parsed(model: type[M], content: bytes, url: str) -> M:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise ServiceError(f"{url} is not an ingest service of this engine") from error
