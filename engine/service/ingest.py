"""`POST /ingest/<Model>`: validate, transform, commit, then answer."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import NamedTuple, cast

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.fault_injection import reached
from engine.service.bodies import BodyError, read_body
from engine.service.context import Endpoint, ServiceContext
from engine.service.dead_letter_format import letter_of
from engine.service.models import Row
from engine.service.submission import (
    Delivery,
    Epoch,
    QueueFullError,
    Receipt,
    RejectedRecord,
    Submission,
    WarehouseDownError,
    WriteFailedError,
)
from engine.service.validation import InvalidBodyError, ValidatedBody, parse_records

__all__ = ["ingest"]

_log = logging.getLogger(__name__)

_NOT_FOUND = "Please run `moose ls` to view your routes"  # the contract's own text
_MAX_KEY = 200
_MAX_SCOPE = 200
_MAX_EPOCH = 2**63 - 1
_RETRY_SOON = {"Retry-After": "1"}
_RETRY_LATER = {"Retry-After": "5"}


async def ingest(request: Request) -> Response:
    """One request; see docs/service.md for headers and statuses."""
    context = cast(ServiceContext, request.app.state.context)
    if not context.ingest_key.allows(request.headers.get("authorization")):
        return PlainTextResponse("Unauthorized: Invalid or missing token", 401)
    endpoint = context.endpoints.get(request.path_params["model"].lower())
    if endpoint is None:
        return PlainTextResponse(_NOT_FOUND, 404)
    if context.is_stopping:
        return PlainTextResponse("The service is stopping", 503, _RETRY_LATER)
    if context.warehouse.is_full or not context.inflight.has_room:
        return PlainTextResponse("Too many requests", 429, _RETRY_SOON)
    try:
        with context.accepted(), context.inflight.share() as take:
            terms = _terms(request)
            body = await read_body(request, context.settings.max_body_size, take)
            is_detailed = request.headers.get("x-odw-results") == "per-record"
            return await _Ingestion(context, endpoint, body, terms).answer(is_detailed)
    except BodyError as error:
        return PlainTextResponse(str(error), error.status)
    except QueueFullError:
        return PlainTextResponse("Too many requests", 429, _RETRY_SOON)
    except WarehouseDownError as error:
        _log.error("a request for %s was not stored: %s", endpoint.model.name, error)
        return PlainTextResponse(f"Error: {error}", 503, _RETRY_LATER)
    except WriteFailedError as error:
        _log.error("a request for %s was not stored: %s", endpoint.model.name, error)
        return PlainTextResponse("Error", 500)


class _Terms(NamedTuple):
    """What the headers say about how the rows are to be committed."""

    delivery: Delivery
    key: str | None
    epoch: Epoch | None


def _terms(request: Request) -> _Terms:
    delivery = request.headers.get("x-odw-delivery", "foreign")
    if delivery not in ("fresh", "replay", "foreign"):
        raise BodyError(400, "X-ODW-Delivery must be fresh or replay")
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise BodyError(400, f"Idempotency-Key must have 1 to {_MAX_KEY} characters")
    return _Terms(cast(Delivery, delivery), key, _epoch(request.headers.get("x-odw-epoch")))


def _epoch(header: str | None) -> Epoch | None:
    if header is None:
        return None
    scope, _, number = header.partition(" ")
    digits = number.isascii() and number.isdigit() and len(number) <= len(str(_MAX_EPOCH))
    if not 0 < len(scope) <= _MAX_SCOPE or not digits or int(number) > _MAX_EPOCH:
        raise BodyError(
            400, f"X-ODW-Epoch must be a scope of 1 to {_MAX_SCOPE} characters, a space and a whole number"
        )
    return Epoch(scope, int(number))


class _Ingestion:
    """One request's way from its body to its answer."""

    def __init__(self, context: ServiceContext, endpoint: Endpoint, body: bytes, terms: _Terms) -> None:
        self._warehouse = context.warehouse
        self._endpoint = endpoint
        self._body = body
        self._terms = terms
        self._now = datetime.now(UTC)

    async def answer(self, is_detailed: bool) -> Response:
        """Raises QueueFullError, WarehouseDownError, WriteFailedError."""
        try:
            validated = self._endpoint.validator.read(self._body)
        except InvalidBodyError as error:
            return PlainTextResponse(f"Invalid JSON: {error}", 400)
        if validated.failures and not is_detailed:
            return await self._refuse(validated)
        letters = self._api_letters(validated)
        rows = self._transform(validated, letters)
        receipt = Receipt(0)
        if rows or letters:
            receipt = await self._write(rows, letters)
        if not is_detailed:
            return PlainTextResponse("SUCCESS")
        answer = {"written": receipt.written, "dead": receipt.dead, "duplicate": receipt.duplicate}
        return Response(orjson.dumps(answer), media_type="application/json")

    async def _refuse(self, validated: ValidatedBody) -> Response:
        """The contract without extensions: one bad record refuses all, and all become dead letters."""
        message = next(iter(validated.failures.values()))
        letters = [
            self._api_letter(index, original, message)
            for index, original in enumerate(validated.originals or [])
            if isinstance(original, dict)
        ]
        self._terms = self._terms._replace(
            key=None
        )  # a refusal can be repeated: the dead letters are upserted
        if letters:
            await self._write([], letters)
        return PlainTextResponse(f"Invalid JSON: {message}", 400)

    def _api_letters(self, validated: ValidatedBody) -> list[RejectedRecord]:
        originals = validated.originals or []
        return [self._api_letter(index, originals[index], text) for index, text in validated.failures.items()]

    def _api_letter(self, index: int, original: object, message: str) -> RejectedRecord:
        return letter_of(
            self._endpoint.model,
            index,
            original,
            error_type="ValidationError",
            error_message=message,
            source="api",
            failed_at=self._now,
        )

    def _transform(self, validated: ValidatedBody, letters: list[RejectedRecord]) -> list[Row]:
        """The rows of the good records; those that the transform refuses are added to `letters`."""
        transform = self._endpoint.model.transform
        if transform is None:
            return validated.records
        try:
            results = transform(validated.records)
        except Exception as error:  # somebody else's code: its bug fails its own requests only
            raise WriteFailedError(f"the transform failed: {type(error).__name__}") from error
        if len(results) != len(validated.records):
            raise WriteFailedError("the transform did not return a result for every record")
        rows = [result for result in results if isinstance(result, dict)]
        if len(rows) == len(results):
            return rows
        originals = validated.originals if validated.originals is not None else parse_records(self._body)
        indexes = (index for index in range(len(originals)) if index not in validated.failures)
        for index, result in zip(indexes, results, strict=True):
            if isinstance(result, Exception):
                letters.append(self._transform_letter(index, originals[index], result))
        letters.sort(key=lambda letter: letter.index)
        return rows

    def _transform_letter(self, index: int, original: object, error: Exception) -> RejectedRecord:
        return letter_of(
            self._endpoint.model,
            index,
            original,
            error_type=str(getattr(error, "kind", type(error).__name__)),
            error_message=str(error),
            source="transform",
            failed_at=self._now,
        )

    async def _write(self, rows: list[Row], letters: list[RejectedRecord]) -> Receipt:
        reached("request_accepted")
        return await self._warehouse.write(
            Submission(
                model=self._endpoint.model.name,
                table=self._endpoint.table,
                rows=rows,
                letters=letters,
                delivery=self._terms.delivery,
                key=self._terms.key,
                epoch=self._terms.epoch,
            )
        )
