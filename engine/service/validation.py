"""Validate request bodies by the ingest contract.

The whole body is validated in one call; only a failing body is split, so that every invalid record gets its
own message and the valid ones can continue.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, FailFast, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from engine.service.models import Row
from engine.service.splitting import (
    InvalidBodyError,
    TooManyRecordsError,
    check_size,
    json_type,
    parse,
    split_body,
)
from engine.service.wire_types import (
    coercer,
    declared_names,
    has_decimals,
    has_plain_fields,
    is_nullable,
    record_type,
    wire_names,
)

__all__ = ["MAX_RECORDS", "BodyValidator", "InvalidBodyError", "TooManyRecordsError", "ValidatedBody"]

MAX_RECORDS = 20_000
"""Default maximum of records in a request."""

_MAX_MESSAGE = 2_000
_MAX_ERRORS = 1_000
_MAX_LONG_MESSAGES = 500
_SHORT_MESSAGE = 200


@dataclass(slots=True)
class ValidatedBody:
    """The content of a body.

    `records` are the valid records, in order; `failures` maps the index of every other record to its message.
    `originals` are all records as they were sent; None when the first attempt found all valid.
    """

    records: list[Row]
    failures: dict[int, str] = field(default_factory=dict)
    originals: list[bytes] | None = None


class _Reader(NamedTuple):
    """Functions that convert JSON text to one plain record, or to several; they raise ValidationError."""

    one: Callable[[bytes], Row]
    many: Callable[[bytes], list[Row]]


@functools.cache  # pydantic takes some milliseconds for each
def _reader_of(model: type[BaseModel]) -> _Reader:
    plain = has_plain_fields(model)
    record: Any = record_type(model) if plain else model
    single: TypeAdapter[Any] = TypeAdapter(record)
    several: TypeAdapter[list[Any]] = TypeAdapter(Annotated[list[record], FailFast()])
    if plain:  # directly into dicts
        return _Reader(single.validate_json, several.validate_json)
    # models with validators, aliases or extras make instances first
    read: Any = {"strict": True, "extra": "allow" if model.model_config.get("extra") == "allow" else "ignore"}
    return _Reader(
        lambda body: single.validate_json(body, **read).model_dump(),
        lambda body: [item.model_dump() for item in several.validate_json(body, **read)],
    )


class BodyValidator:
    """Reads bodies of one model: one JSON object, or an array of them."""

    def __init__(self, model: type[BaseModel], max_records: int = MAX_RECORDS) -> None:
        self._reader = _reader_of(model)
        self._coerce = coercer(model)
        self._is_exact = has_decimals(model)
        self._names = declared_names(model)
        self._max_records = max_records
        # nullable fields may be missing on the wire even if the model requires them
        self._optional: Row = {
            wire_names(name, info)[0]: None
            for name, info in model.model_fields.items()
            if info.is_required() and is_nullable(info.annotation)
        }

    def read(self, body: bytes) -> ValidatedBody:
        """Validate a body.

        Raises:
            InvalidBodyError: it is not JSON, or neither object nor array.
            TooManyRecordsError: it has more records than a request may.
        """
        records = self.read_plain(body)
        return self.take_apart(body) if records is None else ValidatedBody(records)

    def read_plain(self, body: bytes) -> list[Row] | None:
        """Return the records of an entirely valid body, else None. Raises TooManyRecordsError."""
        check_size(body, self._max_records)
        if self._is_exact or b"NaN" in body or b"Infinity" in body:
            return None  # values that pydantic would round, or accept although they are not JSON
        try:
            if body.lstrip(b" \t\r\n")[:1] == b"{":
                return [self._reader.one(body)]
            return self._reader.many(body)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - foreign code: a validator of the model's own may raise anything
            return None  # `take_apart` finds the record and the reason

    def take_apart(self, body: bytes) -> ValidatedBody:
        """Validate the records one by one. Raises InvalidBodyError, TooManyRecordsError."""
        originals = split_body(body, self._max_records)
        result = ValidatedBody([], originals=originals)
        for index, original in enumerate(originals):
            try:
                result.records.append(self._record(original))
            except _RecordRefusedError as error:
                result.failures[index] = str(error)
        if len(result.failures) > _MAX_LONG_MESSAGES:
            result.failures = {index: text[:_SHORT_MESSAGE] for index, text in result.failures.items()}
        return result

    def _record(self, original: bytes) -> Row:
        try:
            value = parse(original)
        except RecursionError:
            raise _RecordRefusedError("nested too deeply") from None
        except ValueError as error:
            known = "JSON number" in str(error)
            raise _RecordRefusedError(str(error) if known else "a number with too many digits") from None
        if not isinstance(value, dict):
            raise _RecordRefusedError(f"invalid type: {json_type(value)}, expected an object")
        try:
            return self._reader.one(_dumps(self._convert(value)))
        except ValidationError as error:
            raise _RecordRefusedError(describe(error, self._names)) from None
        except RecursionError:
            raise _RecordRefusedError("nested too deeply") from None
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - foreign code, as above: only this record fails
            # its message may quote the record
            raise _RecordRefusedError(f"{type(error).__name__} in the model's own code") from None

    def _convert(self, value: object) -> object:
        if self._optional and isinstance(value, dict):
            value = {**self._optional, **value}
        return value if self._coerce is None else self._coerce(value)


class _RecordRefusedError(Exception):
    """One record is not valid; the text is its message."""


def _dumps(value: object) -> bytes:
    """Serialise a result of `parse`, with exact integers."""
    return json.dumps(value, separators=(",", ":")).encode()


def describe(error: ValidationError, names: Container[str]) -> str:
    """Return the contract's message for an invalid record; it never quotes a value.

    `names` are those that the model declares. Any other name in a path is from the record, so it is shown as
    `*`.
    """
    if error.error_count() > _MAX_ERRORS:  # listing them would cost a hundred times the record's size
        return f"{error.error_count()} values do not fit their fields"
    details = error.errors(include_url=False)
    for detail in details:
        if detail["type"] != "missing":
            return _describe_value(detail, names)[:_MAX_MESSAGE]
    return f"Missing fields: {', '.join(_path(detail, names) for detail in details)}"[:_MAX_MESSAGE]


def _describe_value(detail: ErrorDetails, names: Container[str]) -> str:
    path = _path(detail, names)
    if detail["input"] is None:
        return f"Required value at {path}, but is none"
    message = _QUOTING.get(detail["type"]) or detail["msg"]
    if detail["type"] in _CONSTANT:
        message = next((text for part, text in _BETTER.items() if part in message), message)
    elif detail["type"] in _AUTHORED or "error" in detail.get("ctx", {}) or "reason" in detail.get("ctx", {}):
        message = _without_values(message, detail["input"])
    return f"{message} at {path}" if path else message


_AUTHORED = frozenset({"value_error", "assertion_error"})

_CONSTANT = frozenset(
    {
        "date_from_datetime_parsing",
        "date_parsing",
        "datetime_from_date_parsing",
        "datetime_parsing",
        "json_invalid",
        "time_delta_parsing",
        "time_parsing",
    }
)
"""Reasons of a parser that never quote the value."""

_BETTER = {
    "recursion limit": "nested too deeply",
    "datetime or date, unexpected extra": "Input should be a valid datetime, such as 2026-01-31T12:00:59Z",
}
"""Clearer messages for such reasons, by a part of their text."""

_QUOTING = {
    "uuid_parsing": "Input should be a valid UUID",
    "union_tag_invalid": "Input tag does not match any of the expected tags",
}
"""Messages of pydantic that quote the value, or a part of it."""

_WORD = re.compile(r"\w+")


def _without_values(message: str, value: object) -> str:
    """Return a validator's message if it shares no word with the value, else its beginning."""
    said = {word.casefold() for word in _WORD.findall(message)}
    if said.isdisjoint(_words(value)):
        return message
    head = message.partition(",")[0]
    return head if head == "Assertion failed" else "Value error"


def _words(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        elif item is not None:
            yield from (word.casefold() for word in _WORD.findall(str(item)))


def _path(detail: ErrorDetails, names: Container[str]) -> str:
    return ".".join(str(part) if isinstance(part, int) or part in names else "*" for part in detail["loc"])
