"""`POST /ingest/<Model>`: validate, transform, commit, then answer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import unquote

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.fault_injection import reached
from engine.service.bodies import BodyError, read_body
from engine.service.column_bodies import MEDIA_TYPE, OFFER_HEADER, ColumnReader, to_json
from engine.service.context import Endpoint, ServiceContext
from engine.service.dead_letter_format import letter_of
from engine.service.models import UNKNOWN_ORIGIN, Origin, Row
from engine.service.routing import answer
from engine.service.splitting import InvalidBodyError, TooManyRecordsError, split_body
from engine.service.submission import (
    AuditEntry,
    Delivery,
    Epoch,
    KeyReusedError,
    LetterSource,
    QueueFullError,
    Receipt,
    RejectedRecord,
    Submission,
    WarehouseDownError,
    WriteFailedError,
)
from engine.service.validation import ValidatedBody

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

_log = logging.getLogger(__name__)

_NOT_FOUND = "Please run `moose ls` to view your routes"  # the text of the original contract
_MAX_KEY = 200
_MAX_SCOPE = 200
_MAX_ORIGIN = 1_000
_MAX_EPOCH = 2**63 - 1
_MAX_INLINE = 512 * 1024  # a body of this size is validated in about 2 ms
_MAX_INLINE_BAD = 16 * 1024  # splitting a body into records costs twenty times as much
_MANY_LETTERS = 100
_RETRY_SOON = {"Retry-After": "1"}
_RETRY_LATER = {"Retry-After": "5"}


async def ingest(request: Request, context: ServiceContext) -> Response:
    """Handle one request; see docs/service.md for headers and statuses."""
    endpoint = context.endpoints.get(_model_of(request.path_params["path"]))
    if endpoint is None:
        return PlainTextResponse(_NOT_FOUND, 404)
    response = await _taken(request, context, endpoint)
    context.metrics.requests[endpoint.model.name, response.status_code] += 1
    return response


def _wants_details(request: Request) -> bool:
    """Return whether the answer lists every record's outcome. Raises BodyError for an unknown value."""
    wanted = request.headers.get("x-odw-results", "").strip().lower()
    if wanted not in ("", "none", "per-record"):
        raise BodyError(400, "X-ODW-Results must be per-record or none")
    return wanted == "per-record"


def _columns_of(request: Request, endpoint: Endpoint) -> ColumnReader | None:
    """Return the reader of a body of columns. Any other body is JSON, whatever its content type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return endpoint.columns if kind == MEDIA_TYPE else None


async def _taken(request: Request, context: ServiceContext, endpoint: Endpoint) -> Response:
    if context.is_stopping:
        return PlainTextResponse("The service is stopping", 503, _RETRY_LATER)
    if context.warehouse.writer.is_full:
        return PlainTextResponse("Too many requests", 429, _RETRY_SOON)
    try:
        with context.accepted(), context.inflight.share() as share:
            terms = _terms(request)
            body = await read_body(request, context.body_limits, share)
            context.metrics.bytes[endpoint.model.name] += len(body)
            is_detailed = _wants_details(request)
            work = _Ingestion(context, endpoint, body, terms, columns=_columns_of(request, endpoint))
            response = await work.answer(is_detailed)
            if is_detailed and endpoint.columns is not None:
                response.headers[OFFER_HEADER] = endpoint.columns.offer
            return response
    except BodyError as error:
        return PlainTextResponse(str(error), error.status, _RETRY_SOON if error.status == 429 else None)
    except TooManyRecordsError as error:
        return PlainTextResponse(str(error), 413)
    except KeyReusedError as error:
        return PlainTextResponse(str(error), 422)
    except QueueFullError:
        return PlainTextResponse("Too many requests", 429, _RETRY_SOON)
    except WarehouseDownError as error:
        _log.error("a request for %s was not stored: %s", endpoint.model.name, error)
        return PlainTextResponse(f"Error: {error}", 503, _RETRY_LATER)
    except WriteFailedError as error:
        _log.error("a request for %s was not stored: %s", endpoint.model.name, error)
        return PlainTextResponse("Error", 500)


async def store_again(
    context: ServiceContext,
    endpoint: Endpoint,
    record: bytes,
    audit: Sequence[AuditEntry],
    unless_newer: int | None = None,
) -> list[str]:
    """Store one record, given as JSON, in place of an earlier row; return why it was rejected, if it was.

    A row of a later commit sequence than `unless_newer` is kept.

    Raises QueueFullError, WarehouseDownError, WriteFailedError, TooManyRecordsError.
    """
    terms = _Terms("replay", None, None, UNKNOWN_ORIGIN, unless_newer)
    with context.accepted():
        work = _Ingestion(context, endpoint, b"[" + record + b"]", terms, audit)
        response = await work.answer(is_detailed=True)
    if response.status_code != 200:
        return [bytes(response.body).decode()]
    return [str(dead["error_message"]) for dead in orjson.loads(response.body)["dead"]]


def _model_of(path: str) -> str:
    """Return the model's name in lower case, from `<Model>` or `<Model>/<version>`.

    Only one version of each model is served.
    """
    name, _, version = path.partition("/")
    return name.lower() if "/" not in version else ""


class _Terms(NamedTuple):
    """The headers that control how rows are committed."""

    delivery: Delivery
    key: str | None
    epoch: Epoch | None
    origin: Origin
    unless_newer: int | None = None


def _terms(request: Request) -> _Terms:
    delivery = request.headers.get("x-odw-delivery", "foreign")
    if delivery not in ("fresh", "replay", "foreign"):
        raise BodyError(400, "X-ODW-Delivery must be fresh or replay")
    keys = request.headers.getlist("idempotency-key")
    if len(keys) > 1:
        raise BodyError(400, "Idempotency-Key must be given once")
    key = keys[0] if keys else None
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise BodyError(400, f"Idempotency-Key must have 1 to {_MAX_KEY} characters")
    return _Terms(
        cast(Delivery, delivery),
        key,
        _epoch(request.headers.get("x-odw-epoch")),
        _origin(request.headers.get("x-odw-origin")),
        _unless_newer(request),
    )


def _origin(header: str | None) -> Origin:
    if header is None:
        return UNKNOWN_ORIGIN
    parts = [unquote(part) for part in header.split("/")]
    if len(parts) != 3 or not all(parts) or len(header) > _MAX_ORIGIN:
        raise BodyError(
            400,
            "X-ODW-Origin must be a pipeline, a run and a node, percent-encoded and separated by slashes, "
            f"{_MAX_ORIGIN:,} characters at most",
        )
    return Origin(*parts)


def _unless_newer(request: Request) -> int | None:
    header = request.headers.get("x-odw-unless-newer")
    if header is None:
        return None
    if not _is_number(header):
        raise BodyError(400, "X-ODW-Unless-Newer must be the `newest` of GET /deliveries")
    return int(header)


def _is_number(text: str) -> bool:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_EPOCH))
    return digits and int(text) <= _MAX_EPOCH


def _epoch(header: str | None) -> Epoch | None:
    if header is None:
        return None
    scope, _, number = header.partition(" ")
    if not 0 < len(scope) <= _MAX_SCOPE or not _is_number(number):
        raise BodyError(
            400, f"X-ODW-Epoch must be a scope of 1 to {_MAX_SCOPE} characters, a space and a whole number"
        )
    return Epoch(scope, int(number))


class _Ingestion:
    """Processes one request from its body to its answer."""

    def __init__(
        self,
        context: ServiceContext,
        endpoint: Endpoint,
        body: bytes,
        terms: _Terms,
        audit: Sequence[AuditEntry] = (),
        columns: ColumnReader | None = None,
    ) -> None:
        self._columns = columns
        self._sent = body
        self._as_json: Callable[[], bytes] | None = None  # of a body of columns
        self._audit = audit
        self._context = context
        self._warehouse = context.warehouse
        self._endpoint = endpoint
        self._body = body
        self._terms = terms
        self._now = datetime.now(UTC)

    async def answer(self, is_detailed: bool) -> Response:
        """Raises QueueFullError, WarehouseDownError, WriteFailedError, TooManyRecordsError."""
        try:
            if self._columns is not None and (rows := await self._rows_of_columns(self._columns)) is not None:
                origins = _Origins(self, ValidatedBody([]), None)
                return _answer_to(await self._write([], [], origins, rows), is_detailed)
            validated = await self._validated()
        except InvalidBodyError as error:
            return PlainTextResponse(f"Invalid {'JSON' if self._columns is None else 'Arrow'}: {error}", 400)
        if validated.failures and not is_detailed:
            return await self._refuse(validated)
        originals, failures = validated.originals or [], validated.failures
        letters = await self._in_thread_if_many(
            len(failures),
            lambda: [self.rejected(index, originals[index], text) for index, text in failures.items()],
        )
        rows, places = self._transform(validated, letters)
        receipt = Receipt(0)
        if rows or letters:
            receipt = await self._write(rows, letters, _Origins(self, validated, places))
        return _answer_to(receipt, is_detailed)

    async def _rows_of_columns(self, reader: ColumnReader) -> pa.Table | None:
        """Return the rows of a body of columns; None if it was converted to JSON to be processed as such.

        Raises InvalidBodyError, TooManyRecordsError, WriteFailedError.
        """
        if reader.is_loaded:
            columns = reader.read(self._sent)
        else:
            columns = await self._context.beside(lambda: reader.read(self._sent))
        self._as_json = lambda: to_json(columns)
        try:
            rows = reader.rows(columns) if columns.num_rows else None
        except Exception as error:  # as in `_transform`
            raise WriteFailedError(f"the transform failed: {type(error).__name__}") from error
        if rows is None:
            is_long = len(self._sent) > _MAX_INLINE_BAD
            self._body = await self._context.beside(self._as_json) if is_long else self._as_json()
        return rows

    async def _validated(self) -> ValidatedBody:
        """Validate a body; large and invalid ones in a worker thread, two at a time."""
        validator, body = self._endpoint.validator, self._body
        if len(body) > _MAX_INLINE:
            return await self._context.beside(lambda: validator.read(body))
        records = validator.read_plain(body)
        if records is not None:
            return ValidatedBody(records)
        if len(body) > _MAX_INLINE_BAD:
            return await self._context.beside(lambda: validator.take_apart(body))
        return validator.take_apart(body)

    async def _in_thread_if_many(
        self, count: int, make: Callable[[], list[RejectedRecord]]
    ) -> list[RejectedRecord]:
        is_long = count > _MANY_LETTERS or (count > 0 and len(self._body) > _MAX_INLINE_BAD)
        return await self._context.beside(make) if is_long else make()

    async def _refuse(self, validated: ValidatedBody) -> Response:
        """Reject a request as in the original contract: one invalid record dead-letters all."""
        message = next(iter(validated.failures.values()))
        originals = validated.originals or []
        letters = await self._in_thread_if_many(
            len(originals),
            lambda: [
                self.rejected(index, original, message)
                for index, original in enumerate(originals)
                if original.startswith(b"{")
            ],
        )
        self._terms = self._terms._replace(
            key=None
        )  # a rejected request can be repeated, since dead letters are upserted
        if letters:
            await self._write([], letters)
        return PlainTextResponse(f"Invalid JSON: {message}", 400)

    def rejected(
        self,
        index: int,
        original: bytes,
        message: str,
        *,
        source: LetterSource = "api",
        kind: str = "ValidationError",
    ) -> RejectedRecord:
        """Return the dead letter of a record; `source` is what rejected it."""
        return letter_of(
            self._endpoint.model,
            index,
            original,
            error_type=kind,
            error_message=message,
            source=source,
            failed_at=self._now,
            origin=self._terms.origin,
        )

    def _transform(
        self, validated: ValidatedBody, letters: list[RejectedRecord]
    ) -> tuple[list[Row], list[int] | None]:
        """Return the rows of the valid records; those that the transform rejects are added to `letters`.

        Also return the index of each row's record among the valid ones; None when all of them have rows.
        """
        transform = self._endpoint.model.transform
        if transform is None:
            return validated.records, None
        try:
            results = transform(validated.records)
        except Exception as error:  # foreign code: its bugs fail only its own requests
            raise WriteFailedError(f"the transform failed: {type(error).__name__}") from error
        if len(results) != len(validated.records):
            raise WriteFailedError("the transform did not return a result for every record")
        places = [place for place, result in enumerate(results) if isinstance(result, dict)]
        rows = [result for result in results if isinstance(result, dict)]
        if len(rows) == len(results):
            return rows, None
        origins = _Origins(self, validated, None)
        for place, result in enumerate(results):
            if isinstance(result, Exception):
                kind = str(getattr(result, "kind", type(result).__name__))
                rejected = self.rejected(*origins.of(place), str(result), source="transform", kind=kind)
                letters.append(rejected)
        letters.sort(key=lambda letter: letter.index)
        return rows, places

    def originals(self, validated: ValidatedBody) -> list[bytes]:
        """Return all records as they were sent."""
        if validated.originals is None:
            body = self._body if self._as_json is None else self._as_json()
            validated.originals = split_body(body, self._context.settings.max_records)
        return validated.originals

    async def _write(
        self,
        rows: list[Row],
        letters: list[RejectedRecord],
        origins: _Origins | None = None,
        columns: pa.Table | None = None,
    ) -> Receipt:
        reached("request_accepted")
        has_key = self._terms.key is not None  # the hash tells a repeat from another request of the same key
        receipt = await self._warehouse.write(
            Submission(
                model=self._endpoint.model.name,
                table=self._endpoint.table,
                rows=rows,
                columns=columns,
                letters=letters,
                delivery=self._terms.delivery,
                key=self._terms.key,
                body_hash=hashlib.sha256(self._sent, usedforsecurity=False).hexdigest() if has_key else None,
                epoch=self._terms.epoch,
                unless_newer=self._terms.unless_newer,
                refuse=origins.refuse if origins is not None else None,
                audit=self._audit,
            )
        )
        if not receipt.duplicate:
            name, metrics = self._endpoint.model.name, self._context.metrics
            metrics.rows[name] += receipt.written
            metrics.dead.update((name, str(dead["source"])) for dead in receipt.dead)
            metrics.history.add(receipt.written, len(receipt.dead))
        return receipt


def _answer_to(receipt: Receipt, is_detailed: bool) -> Response:
    if not is_detailed:
        return PlainTextResponse("SUCCESS")
    return answer({"written": receipt.written, "dead": receipt.dead, "duplicate": receipt.duplicate})


class _Origins:
    """Maps rows back to their records. The body is split only on demand."""

    def __init__(self, ingestion: _Ingestion, validated: ValidatedBody, places: list[int] | None) -> None:
        self._ingestion = ingestion
        self._validated = validated
        self._places = places
        self._indexes: list[int] | None = None

    def of(self, place: int) -> tuple[int, bytes]:
        """Return the index in the request, and the text, of the valid record at this index."""
        originals = self._ingestion.originals(self._validated)
        if self._indexes is None:
            failures = self._validated.failures
            self._indexes = [index for index in range(len(originals)) if index not in failures]
        index = self._indexes[place]
        return index, originals[index]

    def refuse(self, place: int, message: str) -> RejectedRecord:
        """Return the dead letter of the row at this index."""
        record = place if self._places is None else self._places[place]
        return self._ingestion.rejected(*self.of(record), message, source="table")
