"""The source `http`."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from hashlib import sha256
from typing import Any, Final, Literal, Self, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from connectors.future_values import is_future, note_of_future, note_of_start
from connectors.http.client import Answer, HttpClient, TooLargeError, open_client, same_origin
from connectors.http.connection import HttpConnection
from connectors.http.paging import NoPaging, Paging, Place
from connectors.http.paths import MISSING, RelativePath, at_path, check_path, place_at, spelled
from connectors.json_lines import dump_line, has_long_number, is_utf8, parse_line
from connectors.objects.csv_types import ColumnType
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, Kind, Params, Source, component, operational
from engine.contract.keys import KeyList
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import FatalError, RecordError

Scalar: TypeAlias = str | int | float | bool

_MARK: Final = "greatest"


class Incremental(BaseModel):
    """Read only what is new: request the records after the greatest value of a field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str = Field(description="Field of the records that grows with every change, e.g. `updated_at`")
    parameter: str = Field(description="Query parameter for its greatest value so far, e.g. `since`")
    template: str = Field(
        default="{value}",
        pattern=r"\{value\}",
        description="Template of the value to send, e.g. `updated:>{value}`",
    )
    start: str | int | None = Field(
        default=None, description="Value for the first run (default: the parameter is not sent)"
    )

    @field_validator("field")
    @classmethod
    def _is_path(cls, path: str) -> str:
        return check_path(path)


class HttpSourceParams(Params):
    """Parameters of the `http` source."""

    path: RelativePath = Field(
        default="", description="Path of the resource, appended to the connection's `url`"
    )
    query: dict[str, Scalar | list[Scalar]] = Field(
        default={}, description="Query parameters; one with a list is sent once for each of its values"
    )
    method: Literal["GET", "POST"] = Field(default="GET", description="Method of the requests")
    body: dict[str, Any] = Field(
        default={},
        description="JSON object to send with `POST`, to which the parameters of `paging` and `incremental` "
        "are added; these may be paths in it, e.g. `variables.after`",
    )
    format: Literal["json", "jsonl", "csv"] = Field(
        default="json", description="Format of an answer: a JSON document, JSON lines, or CSV with a header"
    )
    types: Literal["infer", "text"] | dict[str, ColumnType] = Field(
        default="infer",
        description="CSV: types of columns by name (`{age: integer}`); others are inferred from the first "
        "answer that has values. `text`: everything is text",
    )
    records: str = Field(
        default="",
        description="Where the records are in an answer, e.g. `data.items` (default: the answer is a list)",
    )
    records_optional: bool = Field(
        default=False,
        description="An answer with nothing at `records` has no records, for an API that leaves out empty "
        "lists (default: the run stops)",
    )
    key: str | None = Field(
        default=None,
        description="Field that identifies a record (default: page and position, not resumable)",
    )
    paging: Paging = Field(default=NoPaging(type="none"), description="How to request further pages")
    incremental: Incremental | None = Field(default=None, description="Read only what is new")
    max_pages: int = operational(10_000, ge=1, description="Stop the run after this many pages")
    max_answer_bytes: int = operational(
        32 * 1024 * 1024, ge=1024, description="Maximum size of an answer, unpacked"
    )
    requests_per_second: float | None = operational(None, gt=0, description="Rate limit (default: none)")
    timeout: float = operational(60.0, gt=0, description="Timeout of a request, in seconds")

    @field_validator("records", "key")
    @classmethod
    def _is_path(cls, path: str | None) -> str | None:
        return None if path is None else check_path(path)

    @field_validator("body")
    @classmethod
    def _is_json(cls, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body with dates, which YAML reads from 2026-01-31, as text."""
        try:
            return dict(json.loads(dump_line(body)))
        except RecordError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        if self.format != "csv" and "types" in self.model_fields_set:
            raise ValueError(f"`types` is for `format: csv`, and the format is `{self.format}`")
        if self.records_optional and not self.records:
            raise ValueError("`records_optional` needs `records`, the path that may be missing")
        if self.format != "json" and self.records:
            raise ValueError(f"`records` is a path in JSON, and the format is `{self.format}`: leave it out")
        if self.format != "json" and self.paging.type == "cursor":
            raise ValueError(
                f"a cursor is in a JSON document, and the format is `{self.format}`: use `paging` of the "
                "type `link`, `offset` or `page`"
            )
        if self.body and self.method != "POST":
            raise ValueError("`body` is sent with `method: POST` only")
        twice = sorted(self.query.keys() & dict(self.paging.query(self.paging.first())).keys())
        if twice and self.method == "GET":
            raise ValueError(
                f"`query` has {twice[0]!r}, which `paging` sends in every request: leave it out there"
            )
        return self

    def notes(self) -> list[str]:
        """Return notes for `validate`."""
        return [] if self.key else ["without a `key`, a run of this source cannot be resumed"]


def _keeps_bookmarks(params: HttpSourceParams) -> bool:
    return params.incremental is not None


@component(
    Kind.SOURCE,
    "http",
    params=HttpSourceParams,
    connection=HttpConnection,
    extra="http",
    bookmarks=_keeps_bookmarks,
)
class HttpSource(Source[HttpSourceParams]):
    """Reads records from an HTTP API that answers JSON, JSON lines or CSV, page by page.

    The next page is found by the Link header, a cursor, an offset or a page number. `Retry-After` is
    honoured, the rate can be limited, and answers are bounded in size. With a `key`, a resumed run continues
    at the page where it stopped. With `incremental`, a run requests only what has changed since the last one.
    """

    def __init__(self, params: HttpSourceParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self.repeatable = params.key is not None
        # an API may move a record to a later page between two requests
        self.distinct_keys = params.key is None
        self._client: HttpClient | None = None
        self._types: dict[str, ColumnType] = {}  # of CSV columns, inferred from the answers so far
        self._columns: set[str] = set()  # of these answers

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the HTTP client."""
        self._client = await stack.enter_async_context(
            open_client(
                self._connected(),
                concurrency=1,
                timeout=self.params.timeout,
                per_second=self.params.requests_per_second,
                clock=self.ctx.clock,
            )
        )
        stack.callback(setattr, self, "_client", None)

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Return one split: each page leads to the next."""
        since = None
        if self.params.incremental is not None:
            known = await ctx.bookmarks.get(self._place, [_MARK])
            since = known.get(_MARK, self.params.incremental.start)
            if _MARK in known and is_future(since, ctx.clock.now()):
                ctx.count(note_of_start(self.params.incremental.field, ctx.pipeline))
        yield Split("all", {"since": since})

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read pages from `position`: `[next page, pages, records, greatest value, types, columns]`.

        Of the last two, which CSV has, earlier versions stored the types alone.

        Raises:
            TransientError: the next page could not be fetched; all pages before it were yielded.
            FatalError: the API refuses, returns something unexpected, or its pages do not end.
        """
        since = split.manifest["since"]
        place, pages, before, greatest, *of_csv = position or (self.params.paging.first(), 0, 0, since)
        types, columns = [*of_csv, {}, ()][:2]
        self._types, self._columns = dict(types), set(columns or types)
        seen: set[bytes] = set()
        while position is None or place is not None:
            if pages >= self.params.max_pages:
                raise FatalError(f"{self._said} has more than {pages:,} pages: raise `max_pages`")
            found, following, body, failed = await self._page(place, since, pages)
            if following is not None:
                # an API that ignores the parameter returns the same records for every offset
                counted = self.params.paging.type in ("offset", "page")
                self._check_progress(body if counted else orjson.dumps(following), seen)
            batch = self._batch(found, failed, pages, split.first_ordinal + before)
            greatest = self._greatest([one for at, one in enumerate(found) if at not in failed], greatest)
            pages, before, place = pages + 1, before + len(found), following
            of_csv = [dict(self._types), sorted(self._columns)] if self._columns else []
            position = [place, pages, before, greatest, *of_csv]
            batch.position = position
            if place is None and self.params.incremental is not None:
                if greatest is not None:
                    # only at the end: the pages may come in any order
                    batch.bookmarks = [Bookmark(self._place, _MARK, greatest)]
                elif note_of_future(self.params.incremental.field) not in ctx.aggregate:
                    ctx.count("not_incremental", before)
            ctx.count("requests")
            yield batch
            if ctx.draining():
                return

    async def extract(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all records, in lists, without a pipeline, opening the source if needed.

        Raises:
            RecordError: a record that cannot be read; those of the pages before were yielded.
        """
        async with AsyncExitStack() as stack:
            if self._client is None:
                await stack.enter_async_context(self)
            async with aclosing(self.read_all()) as pages:
                async for records in pages:
                    yield records

    @property
    def _place(self) -> str:
        """The scope of bookmarks."""
        params = self.params
        body = [json.dumps(params.body, sort_keys=True)] if params.method == "POST" else []
        what = repr((params.path, sorted(params.query.items()), params.records, params.incremental, *body))
        return f"{self._connected().base}/{sha256(what.encode()).hexdigest()[:12]}"

    @property
    def _url(self) -> str:
        path = self.params.path
        return self._connected().base + (f"/{path.lstrip('/')}" if path else "")

    @property
    def _said(self) -> str:
        return f"{self.params.method} {self._url}"

    def _connected(self) -> HttpConnection:
        if not isinstance(self.connection, HttpConnection):
            raise FatalError("the http source needs a connection with the `url` of the API")
        return self.connection

    async def _page(
        self, place: Place, since: Any, number: int
    ) -> tuple[list[Any], Place, bytes, Mapping[int, RecordError]]:
        """Return the records of a page, the next page, the body of the answer, and unreadable records."""
        assert self._client is not None, "enter the source first"
        paging = self.params.paging
        own = paging.address(place)
        if own and not same_origin(own, self._connected().base):
            raise FatalError(
                "the run stopped at a page of another host than `url` of the connection: credentials are not "
                "sent there; restore `url`, or start a new run"
            )
        url = own or self._url
        # the address of a page includes the parameters of the first request
        query: dict[str, Any] = {} if own else dict(self.params.query)
        asked: dict[str, Any] = {}
        if (only := self.params.incremental) is not None and since is not None and not own:
            whole = only.template == "{value}"
            asked[only.parameter] = since if whole else only.template.replace("{value}", str(since))
        asked |= paging.query(place)
        method, content, headers = self.params.method, None, None
        if method == "POST":
            content, headers = self._content(asked), {"Content-Type": "application/json"}
        else:
            query |= asked
        try:
            answer = await self._client.send(
                method,
                url,
                query=[
                    (name, spelled(value))
                    for name, given in query.items()
                    for value in (given if isinstance(given, list) else [given])
                ],
                content=content,
                headers=headers,
                max_answer=self.params.max_answer_bytes,
            )
        except TooLargeError as error:
            raise FatalError(f"{error}: ask for smaller pages, or raise `max_answer_bytes`") from None
        if number and paging.ends(answer.status):
            return [], None, b"", {}
        if answer.status >= 300:
            raise self._client.failure(answer, method, url)
        self.ctx.count("bytes", len(answer.body))
        document, failed = await self._read(answer, first=not number)
        records = self._records(document, first=not number)
        following = paging.next(place, answer, document, len(records), url)
        if records and not number and following is None and (doubt := paging.doubt(answer, document)):
            self.ctx.count(f"note: read one page alone, and {doubt}")
        return records, self._without_secrets(following), answer.body, failed

    def _content(self, asked: Mapping[str, Any]) -> bytes:
        document = dict(self.params.body)
        for path, value in asked.items():
            place_at(document, path, value)
        return json.dumps(document).encode()

    async def _read(self, answer: Answer, *, first: bool) -> tuple[Any, Mapping[int, RecordError]]:
        """Return the document of an answer, and the errors of its unreadable lines or rows by index."""
        if self.params.format == "json" or answer.is_page:
            return self._document(answer, first=first), {}
        from connectors.http.rows import read_rows

        try:
            return await read_rows(
                answer, self.params.format, self.params.types, self._said, self._types, self._columns
            )
        except RecordError as error:
            kind = answer.headers.get("content-type", "no content type")
            raise FatalError(
                f"{self._said} did not answer with `{self.params.format}` ({kind}): {error}",
                kind="schema",
            ) from None

    def _document(self, answer: Answer, *, first: bool) -> Any:
        if answer.status == 204 or not (answer.body.strip() or first):
            return []
        if not answer.body.strip():
            raise FatalError(
                f"{self._said} answered {answer.status} with nothing, which does not say that there are no "
                "records: check `url` and `path`"
            )
        if answer.is_page:
            raise FatalError(
                f"{self._said} answered with a web page instead of {self.params.format.upper()}, which may "
                "be a login: check `url`, `path` and the credentials of the connection"
            )
        try:
            body = _in_utf8(answer)
            if has_long_number(body):
                return parse_line(b'{"document":' + body + b"}", self._said)["document"]
            return orjson.loads(body)
        except (orjson.JSONDecodeError, RecordError) as error:
            kind = answer.headers.get("content-type", "no content type")
            if re.search(r"[/+]json\s*(;|$)", kind):
                where = f": {error}" if isinstance(error, orjson.JSONDecodeError) else ""
                raise FatalError(f"{self._said} answered with JSON that is not valid{where}") from None
            raise FatalError(
                f"{self._said} did not answer with JSON ({kind}): check `path`, or set `format` to "
                "`csv` or `jsonl`"
            ) from None

    def _records(self, document: Any, *, first: bool) -> list[Any]:
        path = self.params.records
        nothing = document == [] or (document == {} and not first)
        found = [] if nothing else at_path(document, path)
        if isinstance(found, list):
            return found
        if isinstance(document, Mapping):
            self._check_errors(document)
        if found is None or (found is MISSING and self.params.records_optional):
            if first and found is MISSING:
                self.ctx.count(
                    f"note: the first answer has nothing at `{path}`, which is taken as no records"
                )
            return []
        known = ", ".join(list(document)[:20]) if isinstance(document, Mapping) else "a list"
        where = f"`{path}`" if path else "its top"
        raise FatalError(
            f"{self._said} has no list of records at {where}: set `records` to where they are, or "
            f"`records_optional` if the API leaves out empty lists; it has {known or 'no fields'}",
            kind="schema",
        )

    def _check_errors(self, document: Mapping[str, Any]) -> None:
        """Refuse an answer without records that states an error, such as one of GraphQL with status 200."""
        for name in ("error", "errors"):
            if document.get(name):
                assert self._client is not None, "enter the source first"
                said = self._client.excerpt(Answer(200, {}, json.dumps(document[name]).encode()))
                raise FatalError(f"{self._said} answered with `{name}` instead of records{said}")

    def _batch(self, found: list[Any], failed: Mapping[int, RecordError], page: int, ordinal: int) -> Batch:
        failures: list[tuple[int, RecordError]] = []
        records: list[Any] = []
        keys: list[str] = []
        name = self.ctx.node or self.params.path.strip("/") or "record"  # two nodes may read the same API
        for index, record in enumerate(found):
            key = f"{name}#{page}/{index}"
            if index in failed:
                failures.append((index, failed[index]))
            elif not isinstance(record, dict):
                failures.append((index, RecordError("the record is not an object", kind="NotAnObject")))
                record = {"value": record}
            elif self.params.key is not None:
                value = at_path(record, self.params.key)
                if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                    key = f"{name}/{value}"
                else:
                    error = RecordError(f"no text or number in {self.params.key!r}", kind="MissingKey")
                    failures.append((index, error))
            records.append(record)
            keys.append(key)
        batch = Batch(records, KeyList(keys, ordinal, counted=True))
        batch.failures = failures
        return batch

    def _greatest(self, found: list[Any], greatest: Any) -> Any:
        if self.params.incremental is None:
            return None
        path, now = self.params.incremental.field, self.ctx.clock.now()
        for record in found:
            value = at_path(record, path)
            if value is MISSING or value is None:
                continue
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise FatalError(f"a value of {path!r} is neither text nor a number", kind="schema")
            if greatest is not None and isinstance(value, str) is not isinstance(greatest, str):
                raise FatalError(
                    f"the values of {path!r} cannot be compared: some are text, others are not; if those of "
                    f"earlier runs differ, run: python -m engine bookmarks reset {self.ctx.pipeline}",
                    kind="schema",
                )
            later = greatest is None or value > greatest
            if is_future(value, now, greatest) if later else is_future(greatest, now, value):
                self.ctx.count(note_of_future(path))
                later = not later  # the one of the greater unit would skip all others
            greatest = value if later else greatest
        return greatest

    def _check_progress(self, page: bytes, seen: set[bytes]) -> None:
        digest = sha256(page).digest()[:8]
        if digest in seen:
            raise FatalError(
                f"{self._said} leads to a page that was read already, and would never end: check `paging`; "
                "for a cursor, `more` names the field that says whether there are more pages",
                kind="schema",
            )
        seen.add(digest)

    def _without_secrets(self, following: Place) -> Place:
        """Remove the parameters of every request from an address, which will be stored."""
        if not isinstance(following, str) or not self._connected().query_secrets or "?" not in following:
            return following
        import httpx

        url = httpx.URL(following)
        secret = self._connected().query_secrets
        kept = [(name, value) for name, value in url.params.multi_items() if name not in secret]
        return str(url.copy_with(query=str(httpx.QueryParams(tuple(kept))).encode() if kept else None))


def _in_utf8(answer: Answer) -> bytes:
    """Return the body in UTF-8. Older servers send JSON with a byte order mark or in other charsets."""
    body = answer.body.removeprefix(codecs.BOM_UTF8)
    if is_utf8(body) and b"\0" not in body:
        return body
    stated = re.search(r"charset=\"?([\w.:-]+)", answer.headers.get("content-type", ""), re.IGNORECASE)
    for charset in (stated[1] if stated else "", json.detect_encoding(body)):
        try:
            return body.decode(charset).removeprefix("\ufeff").encode()
        except (UnicodeError, LookupError):
            continue
    return body
