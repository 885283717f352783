"""The target of extraction: a model, its fields as requested from a language model, and its records."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from math import isfinite
from traceback import extract_tb
from types import GenericAlias
from typing import Any, Final

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails, InitErrorDetails

from connectors.llm.invalid import details_of
from connectors.llm.json_text import written
from connectors.llm.shapes import JsonObject
from connectors.llm.shaping import UnaskableError, fields_of
from connectors.llm.spelling import OTHER_NAMES
from connectors.llm.structures import Field, Fields, Items, as_told, object_schema
from engine.errors import FatalError

TRANSFORM_TIMESTAMP: Final = "transform_timestamp"
SYSTEM_FIELDS: Final = frozenset({"id", "source_file_path", TRANSFORM_TIMESTAMP})
"""Fields that the pipeline fills in; a model is never asked for them."""

RECORDS: Final = "records"
"""The field of an answer that holds several records of one document."""

NONCE: Final = "nonce"
_NAME_LENGTH: Final = 64  # of a schema, as endpoints accept it


@dataclass(frozen=True)
class TargetSchema:
    """The schema of extracted records.

    `fields` are the requested ones, by their Python names, ignoring aliases. `lenient`: missing fields are
    checked later, since the answer covers only part of a document. `items`: names of the fields of each
    record if an answer has several.
    """

    model: type[BaseModel]
    fields: Mapping[str, Field]
    lenient: bool = False
    items: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The model's name, as endpoints accept it: ASCII letters, digits, `_` and `-`."""
        return re.sub(r"[^a-zA-Z0-9_-]+", "_", self.model.__name__).strip("_")[:_NAME_LENGTH] or "record"

    @cached_property
    def required(self) -> frozenset[str]:
        """The fields without which a record is invalid: no default, and null is not allowed.

        None are known to be of a model whose own validator comes first, since it may fill them in.
        """
        validators = self.model.__pydantic_decorators__.model_validators.values()
        if self.lenient or any(one.info.mode != "after" for one in validators):
            return frozenset()
        fields = self.fields.items()
        return frozenset(name for name, one in fields if one.required and not one.shape.accepts_null)

    @cached_property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The names that a reply may use for each field, its own name first."""
        return {name: tuple(self._names(name)) for name in self.fields}

    @cached_property
    def spellings(self) -> frozenset[str]:
        """All of these names."""
        return frozenset(one for names in self.names.values() for one in names)

    def _names(self, name: str) -> Iterator[str]:
        yield name
        info = self.model.model_fields[name]
        aliases = (info.alias, info.validation_alias, info.serialization_alias)
        others = (*(one for one in aliases if isinstance(one, str)), *OTHER_NAMES.get(name, ()))
        yield from (one for one in dict.fromkeys(others) if one not in self.fields)

    def describe(self) -> str:
        """Describe the fields as lines of a prompt."""
        return "\n".join(
            f"- {name}: {one.described}" if one.described else f"- {name}"
            for name, one in self.fields.items()
        )

    def slots(self, slots: Sequence[str]) -> JsonObject:
        """Return a strict schema with one required object per slot, each with `nonce` and the fields.

        It uses only what strict decoding supports everywhere: all keys required, nullable types instead of
        optional keys, no additional properties, no bounds. The record is defined once for all slots.
        https://platform.openai.com/docs/guides/structured-outputs
        """
        defs: dict[str, JsonObject] = {}
        record = object_schema({NONCE: {"type": "string"}, **self._properties(defs)})
        name = "slot"
        while name in defs:
            name += "_"
        return {
            **object_schema({one: {"$ref": f"#/$defs/{name}"} for one in slots}),
            "$defs": {name: record, **defs},
        }

    def record(self) -> JsonObject:
        """Return a strict schema of a single record, without a nonce."""
        defs: dict[str, JsonObject] = {}
        schema = object_schema(self._properties(defs))
        return {**schema, "$defs": defs} if defs else schema

    def listed(self) -> TargetSchema:
        """Return the schema of an answer with any number of these records, as `records`."""
        told = f"one object for each {self.name} that the document states, in its order"
        several = Field(Items(Fields(dict(self.fields))), required=True, described=told)
        inside: Any = {RECORDS: (GenericAlias(list, (self.model,)), ...)}
        wrapper = create_model(f"{self.name}_list", **inside)
        return TargetSchema(wrapper, {RECORDS: several}, self.lenient, self.spellings)

    def _properties(self, defs: dict[str, JsonObject]) -> JsonObject:
        return {name: one.asked(defs) for name, one in self.fields.items()}

    def validated(self, values: Mapping[str, object]) -> dict[str, object]:
        """Validate a record and return it as plain JSON values, by field names.

        Values are validated as JSON, so that a strict model accepts a date or a decimal as text.

        Raises:
            ValidationError: the values do not fit the model.
        """
        record = self.model.model_validate_json(written(values), by_alias=False, by_name=True)
        dumped = record.model_dump(mode="json", by_alias=False)
        if not isinstance(dumped, Mapping):
            raise FatalError(f"the serializer of `{self.name}` has to return an object", kind="schema")
        infinite = [_not_finite(place, value) for place, value in _numbers(dumped) if not isfinite(value)]
        if infinite:
            raise ValidationError.from_exception_data(self.name, infinite)
        told: dict[str, object] = as_told(Fields(self.fields), values, dumped)
        return told

    def field_errors(self, known: Mapping[str, object]) -> list[ErrorDetails]:
        """Return the errors of some fields, as far as they can be checked without the others."""
        values = {name: value for name, value in known.items() if name in self.model.model_fields}
        try:
            self.model.model_validate_json(written(values), by_alias=False, by_name=True)
        except ValidationError as error:
            return [one for one in details_of(error) if one["loc"] and one["loc"][0] in values]
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - a validator may need the other fields; the whole record is validated later
            return []
        return []


def _numbers(
    value: object, place: tuple[int | str, ...] = ()
) -> Iterator[tuple[tuple[int | str, ...], float]]:
    """Yield the decimal numbers inside a value, with their paths."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _numbers(inner, (*place, str(name)))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _numbers(inner, (*place, at))


def _not_finite(place: tuple[int | str, ...], value: float) -> InitErrorDetails:
    """Return the error for NaN or an infinity, which JSON cannot represent."""
    return InitErrorDetails(type="finite_number", loc=place, input=value)


def target_schema(name: str, known: Collection[str] = SYSTEM_FIELDS) -> TargetSchema:
    """Load the schema of a model of `connectors.models` or of `package.module:Class`.

    Args:
        known: fields that the pipeline fills in.

    Raises:
        FatalError: the model does not exist, has no fields to extract, or has one that cannot be requested.
    """
    return schema_of(_imported(name), known, name)


def schema_of(model: type[BaseModel], known: Collection[str] = SYSTEM_FIELDS, name: str = "") -> TargetSchema:
    """Return the schema of a model, called `name` in the file. Raises FatalError as `target_schema` does."""
    called = f"`schema` {name!r}" if name else "`fields`"
    try:
        fields = {key: one for key, one in fields_of(model).items() if key not in known}
    except UnaskableError as error:
        raise FatalError(f"{called}: {error}", kind="schema") from error
    if not fields or NONCE in fields:
        filled = ", ".join(f"`{one}`" for one in sorted(known))
        message = f"{called} must have fields to extract besides {filled}, and none called `{NONCE}`"
        raise FatalError(message, kind="schema")
    return TargetSchema(model, fields)


def _imported(name: str) -> type[BaseModel]:
    module, _, attribute = name.rpartition(":")
    try:
        model: object = import_module(module or "connectors.models")
        for part in attribute.split("."):
            model = getattr(model, part)
    # a module is user code: any error while it is imported is a problem of the file
    except (Exception, SystemExit) as error:
        raise FatalError(f"cannot import `schema` {name!r}: {_reason(error)}", kind="schema") from error
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise FatalError(f"`schema` {name!r} is not a Pydantic model", kind="schema")
    return model


def _reason(error: BaseException) -> str:
    """Describe why a module cannot be imported, with its line if it was found."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename.rpartition('/')[2]} line {error.lineno}: {error.msg}"
    lines = [frame for frame in extract_tb(error.__traceback__) if frame.name == "<module>"]
    if not lines or isinstance(error, ModuleNotFoundError | AttributeError):
        return str(error)
    return f"{lines[-1].filename.rpartition('/')[2]} line {lines[-1].lineno}: {type(error).__name__}: {error}"
