"""Validation of request bodies by the ingest contract.

The whole body is validated in one call; only a body that fails is taken apart, so that every bad record
gets its own message and the good ones can go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from engine.service.models import Row
from engine.service.wire_types import coercer, has_plain_fields, is_nullable, record_type

__all__ = ["BodyValidator", "InvalidBodyError", "ValidatedBody"]

_MAX_MESSAGE = 2_000


class InvalidBodyError(Exception):
    """The body is not JSON, or neither an object nor an array."""


@dataclass(slots=True)
class ValidatedBody:
    """What a body held.

    `records` are the valid ones, in order; `failures` maps the index of every other one in the body to its
    message. `originals` are all of them as sent, parsed only when there was a failure.
    """

    records: list[Row]
    failures: dict[int, str] = field(default_factory=dict)
    originals: list[object] | None = None


class _Reader(Protocol):
    """One way of turning JSON text into plain records; raises pydantic's ValidationError."""

    def one(self, body: bytes) -> Row: ...

    def many(self, body: bytes) -> list[Row]: ...


class _DictReader:
    """For models that are no more than their fields: straight into dicts."""

    def __init__(self, model: type[BaseModel]) -> None:
        record: Any = record_type(model)
        self.one = cast("TypeAdapter[Row]", TypeAdapter(record)).validate_json
        self.many = cast("TypeAdapter[list[Row]]", TypeAdapter(list[record])).validate_json


class _ModelReader:
    """For models with validators, aliases or extras: through instances, which run them."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model
        self._list: TypeAdapter[list[BaseModel]] = TypeAdapter(list[model])  # type: ignore[valid-type]

    def one(self, body: bytes) -> Row:
        return self._model.model_validate_json(body, strict=True, extra=self._extra).model_dump()

    def many(self, body: bytes) -> list[Row]:
        return [item.model_dump() for item in self._list.validate_json(body, strict=True, extra=self._extra)]

    @property
    def _extra(self) -> Any:
        return "allow" if self._model.model_config.get("extra") == "allow" else "ignore"


class BodyValidator:
    """Reads bodies of one model: one JSON object, or an array of them."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._reader: _Reader = _DictReader(model) if has_plain_fields(model) else _ModelReader(model)
        self._coerce = coercer(model)
        # Nullable fields may be missing on the wire even where the model itself insists on them.
        self._optional: Row = {
            name: None
            for name, info in model.model_fields.items()
            if info.is_required() and is_nullable(info.annotation)
        }

    def read(self, body: bytes) -> ValidatedBody:
        """Validate a body. Raises InvalidBodyError when it is not JSON, or neither object nor array."""
        try:
            if body.lstrip(b" \t\r\n")[:1] == b"{":
                return ValidatedBody([self._reader.one(body)])
            return ValidatedBody(self._reader.many(body))
        except ValidationError:
            return self._take_apart(parse_records(body))

    def _take_apart(self, originals: list[object]) -> ValidatedBody:
        values = [self._convert(value) for value in originals]
        try:
            return ValidatedBody(self._reader.many(orjson.dumps(values)), originals=originals)
        except ValidationError:
            pass  # some record is really wrong: find out which
        result = ValidatedBody([], originals=originals)
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                result.failures[index] = f"invalid type: {_json_type(value)}, expected an object"
                continue
            try:
                result.records.append(self._reader.one(orjson.dumps(value)))
            except ValidationError as error:
                result.failures[index] = describe(error)
        return result

    def _convert(self, value: object) -> object:
        if self._optional and isinstance(value, dict):
            value = {**self._optional, **value}
        return value if self._coerce is None else self._coerce(value)


def parse_records(body: bytes) -> list[object]:
    """The records of a body as sent. Raises InvalidBodyError."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidBodyError(str(error)) from error
    if isinstance(value, dict):
        return [value]
    if isinstance(value, list):
        return value
    raise InvalidBodyError(f"invalid type: {_json_type(value)}, expected an object or an array")


def describe(error: ValidationError) -> str:
    """The contract's message for one bad record; never quotes a value of it."""
    details = error.errors(include_url=False, include_context=False)
    for detail in details:
        if detail["type"] != "missing":
            return _describe_value(detail)[:_MAX_MESSAGE]
    return f"Missing fields: {', '.join(_path(detail) for detail in details)}"[:_MAX_MESSAGE]


def _describe_value(detail: ErrorDetails) -> str:
    if detail["input"] is None:
        return f"Required value at {_path(detail)}, but is none"
    return f"{detail['msg']} at {_path(detail)}" if detail["loc"] else detail["msg"]


def _path(detail: ErrorDetails) -> str:
    return ".".join(str(part) for part in detail["loc"])


def _json_type(value: object) -> str:
    names: Mapping[type, str] = {
        str: "string",
        bool: "boolean",
        int: "integer",
        float: "number",
        list: "array",
        type(None): "null",
    }
    return names.get(type(value), "object")
