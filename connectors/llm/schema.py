"""Convert target models to schemas and prompts."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.errors import FatalError

__all__ = ["SYSTEM_FIELDS", "TargetSchema", "json_type", "target_schema"]

SYSTEM_FIELDS: Final = frozenset({"id", "source_file_path", "transform_timestamp"})
"""Fields that the pipeline knows itself; a model is never asked for them."""

JsonObject: TypeAlias = dict[str, Any]

_SCALARS: Final = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class TargetSchema:
    """The schema of extracted records.

    `fields` are those asked for, `required` those without which a record is dead.
    """

    model: type[BaseModel]
    fields: Mapping[str, FieldInfo]
    required: frozenset[str]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.__name__

    def describe(self) -> str:
        """Describe the fields as lines of a prompt."""
        return "\n".join(
            f"- {name}: {info.description}" if info.description else f"- {name}"
            for name, info in self.fields.items()
        )

    def slots(self, slots: Sequence[str]) -> JsonObject:
        """Return a strict schema with one required object per slot, each with `nonce` and the fields.

        It stays within what strict decoding allows everywhere: all keys required, nullable types instead of
        optional keys, no additional properties, no bounds.
        https://platform.openai.com/docs/guides/structured-outputs
        """
        properties: JsonObject = {"nonce": {"type": "string"}}
        properties |= {name: _field(info) for name, info in self.fields.items()}
        return _object(dict.fromkeys(slots, _object(properties)))


def target_schema(name: str) -> TargetSchema:
    """Load the schema of a model of `connectors.models` or of `package.module:Class`.

    Raises:
        FatalError: there is no such model, or nothing in it to ask for.
    """
    module, _, attribute = name.rpartition(":")
    try:
        model: object = getattr(import_module(module or "connectors.models"), attribute)
    except (ImportError, AttributeError) as error:
        raise FatalError(f"cannot import `schema` {name!r}: {error}", kind="schema") from error
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise FatalError(f"`schema` {name!r} is not a Pydantic model", kind="schema")
    fields = {key: info for key, info in model.model_fields.items() if key not in SYSTEM_FIELDS}
    if not fields or "nonce" in fields:
        message = f"`schema` {name!r} must have fields to extract, and none called `nonce`"
        raise FatalError(message, kind="schema")
    required = (key for key, info in fields.items() if info.is_required() and not _nullable(info.annotation))
    return TargetSchema(model, fields, frozenset(required))


def _object(properties: JsonObject) -> JsonObject:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _field(info: FieldInfo) -> JsonObject:
    schema = _or_null(json_type(info.annotation))
    return {**schema, "description": info.description} if info.description else schema


def _or_null(schema: JsonObject) -> JsonObject:
    if isinstance(schema.get("type"), str) and schema["type"] != "object":
        nullable = {**schema, "type": [schema["type"], "null"]}
        return {**nullable, "enum": [*schema["enum"], None]} if "enum" in schema else nullable
    return {"anyOf": [schema, {"type": "null"}]}


def json_type(annotation: Any) -> JsonObject:
    """The JSON type of an annotation, without null; what JSON has no type for is a string."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return json_type(parts[0])
    if origin in (Union, types.UnionType):
        return json_type(next(part for part in parts if part is not type(None)))
    if origin is Literal:
        return {"type": "string", "enum": [str(part) for part in parts]}
    if origin in (list, set, frozenset, tuple, Sequence):
        return {"type": "array", "items": json_type(parts[0]) if parts else {"type": "string"}}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _object({name: _field(info) for name, info in annotation.model_fields.items()})
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"type": "string", "enum": [str(item.value) for item in annotation]}
    return {"type": _SCALARS.get(annotation, "string")}


def _nullable(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _nullable(get_args(annotation)[0])
    return get_origin(annotation) in (Union, types.UnionType) and type(None) in get_args(annotation)
