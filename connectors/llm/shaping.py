"""Derive the shapes of a Pydantic model's fields from its JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, Flag
from typing import Any, Final

from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from connectors.llm.shapes import FEW_VALUES, Choice, Nothing, Number, Shape, Text, TrueOrFalse
from connectors.llm.spelling import folded_name
from connectors.llm.structures import Either, Entries, Field, Fields, Items, Places, Reference
from engine.contract.unplanned import described

JsonObject = Mapping[str, Any]

MAX_CHOICES: Final = 1_000
"""Maximum values of all choices of a schema, as OpenAI counts them; beyond it the largest are listed in
words."""

_MAX_CHOICE_CHARACTERS: Final = 7_500  # of one choice of texts; OpenAI's limit is 15,000 from 250 values on

_FORMATS: Final = {
    "date": "date as YYYY-MM-DD",
    "date-time": "date and time in ISO 8601, as 2026-01-31T13:45:00, with the UTC offset if it is stated",
    "time": "time of day as HH:MM:SS",
    "duration": "duration in ISO 8601, as P3DT4H30M",
    "uuid": "UUID",
    "uri": "URL with its scheme",
    "email": "e-mail address",
    "ipv4": "IPv4 address",
    "ipv6": "IPv6 address",
    "json-string": "JSON",
    "decimal": "number, digit by digit with a decimal point and no thousands separators",
}
_MOMENTS: Final = frozenset({"date", "date-time", "time", "duration"})
_SUM_OF: Final = "x-sum-of"
_NAMES: Final = "x-names"
_BOUNDS: Final = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "minProperties": "at least {} entries",
    "maxProperties": "at most {} entries",
    "pattern": "matching the pattern {}",
    _SUM_OF: "the sum of those that apply of {}",
}
_UNKNOWN: Final = ("not", "if", "then", "else", "contains", "dependentSchemas", "unevaluatedProperties")
_IMPOSSIBLE: Final = "x-impossible"
_NO_KEYS: Final = frozenset({"tuple", "list", "set", "frozenset", "dict", "model", "dataclass", "typed-dict"})
_NO_MEMBER: Final = "use `{}`, or a `Literal` of values: a member of it is never read from JSON"
_ODD_VALUES: Final = "its values have to be texts, numbers, true or false, not {}"


class UnaskableError(ValueError):
    """A field without a possible strict schema; the message names it and the reason."""


def fields_of(model: type[BaseModel]) -> dict[str, Field]:
    """Return the fields of a model by name, including nested ones.

    Aliases are ignored: values are requested and validated by field name.

    Raises:
        UnaskableError: a field cannot be requested, or is not fully defined.
    """
    try:
        schema = model.model_json_schema(by_alias=False, schema_generator=_Generator)
    except (PydanticUserError, RecursionError) as error:
        raise UnaskableError(str(error).partition("\n")[0]) from error
    except Exception as error:
        raise UnaskableError(f"its JSON schema cannot be made: {described(error)}") from error
    definitions = schema.get("$defs", {})
    if "$ref" in schema:  # a recursive model
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    if "properties" not in schema:
        raise UnaskableError("a record needs named fields, and this model has none")
    shaper = _Shaper(definitions)
    fields = shaper.fields(schema, "")
    return (
        fields if shaper.values <= MAX_CHOICES else _Shaper(definitions, shaper.largest()).fields(schema, "")
    )


class _Generator(GenerateJsonSchema):
    """Generates Pydantic's schema with decimals as texts, and marks types without a JSON form."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        """Use text for decimals: a price as a number would be rounded."""
        return {"type": "string", "format": "decimal"}

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        """Refuse enums of dates and the like: they would be requested as texts and never match."""
        if issubclass(schema["cls"], Flag):
            parts = ", ".join(f"{one.value} for {one.name}" for one in schema["members"])
            return {"type": "integer", _SUM_OF: parts}
        if not schema["members"]:
            return {_IMPOSSIBLE: f"the enum `{schema['cls'].__name__}` has no members"}
        made = self._checked(super().enum_schema(schema), [one.value for one in schema["members"]])
        return {**made, _NAMES: [one.name for one in schema["members"]]}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        """Refuse literals such as bytes, which have no JSON form."""
        members = [one.value if isinstance(one, Enum) else one for one in schema["expected"]]
        for one in schema["expected"]:
            if isinstance(one, Enum) and not isinstance(one, str | int | float):
                # Pydantic accepts no member of such an enum from JSON
                return {_IMPOSSIBLE: _NO_MEMBER.format(type(one).__name__)}
        return self._checked(super().literal_schema(schema), members)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Refuse keys such as tuples: keys of a JSON object are texts."""
        key: Mapping[str, Any] = schema.get("keys_schema", {})
        if key.get("type") in _NO_KEYS:
            return {_IMPOSSIBLE: f"its keys have to be texts, numbers, dates or the like, not {key['type']}s"}
        return super().dict_schema(schema)

    def _checked(self, made: JsonSchemaValue, values: list[object]) -> JsonSchemaValue:
        odd = next((one for one in values if not isinstance(one, str | int | float | None)), None)
        return made if odd is None else {_IMPOSSIBLE: _ODD_VALUES.format(type(odd).__name__)}

    def handle_invalid_for_json_schema(
        self, schema: core_schema.CoreSchema, error_info: str
    ) -> JsonSchemaValue:
        return {_IMPOSSIBLE: f"JSON has no form for it ({error_info.partition(chr(10))[0]})"}

    def emit_warning(self, kind: Any, detail: str) -> None:
        """Ignore warnings about defaults that JSON cannot represent: they are never sent."""


class _Shaper:
    """Creates the shapes for the parts of one schema.

    `spelled` are the choices whose values are listed in words; `values` counts those of all others.
    """

    def __init__(self, definitions: JsonObject, spelled: frozenset[tuple[object, ...]] = frozenset()) -> None:
        self._definitions = definitions
        self._spelled = spelled
        self._known: dict[str, Shape] = {}
        self._choices: dict[tuple[object, ...], int] = {}

    @property
    def values(self) -> int:
        """The number of values of all choices that are not listed in words."""
        return sum(self._choices.values())

    def largest(self) -> frozenset[tuple[object, ...]]:
        """The largest choices, as many as must be listed in words to keep to the limit."""
        left, found = self.values, set()
        for values, count in sorted(self._choices.items(), key=lambda item: -item[1]):
            if left <= MAX_CHOICES:
                break
            found.add(values)
            left -= count
        return frozenset(found)

    def fields(self, schema: JsonObject, path: str, tag: str = "") -> dict[str, Field]:
        """Return the fields of an object; `tag` is the one that distinguishes it within its union."""
        required = schema.get("required", ())
        return {
            name: self._field(part, f"{path}.{name}" if path else name, name in required, name == tag)
            for name, part in schema.get("properties", {}).items()
        }

    def _field(self, schema: JsonObject, path: str, required: bool, tag: bool) -> Field:
        shape = self._shape(schema, path)
        single = isinstance(shape, Choice) and len(shape.values) == 1 and not shape.accepts_null
        return Field(shape, required, _words(schema, shape), fixed=tag or single)

    def _shape(self, schema: JsonObject, path: str, tag: str = "") -> Shape:
        for word in (_IMPOSSIBLE, *_UNKNOWN):
            if word in schema:
                raise UnaskableError(
                    f"`{path}`: {schema[word] if word == _IMPOSSIBLE else f'`{word}` cannot be asked for'}"
                )
        if schema.get("writeOnly"):
            raise UnaskableError(f"`{path}`: a secret would be written as asterisks; use `str`")
        if "$ref" in schema:
            return self._reference(schema["$ref"], path, tag)
        if "const" in schema or "enum" in schema:
            return self._choice(schema, path)
        branches = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
        if branches:
            return self._either(schema, branches, path)
        kind = schema.get("type")
        if isinstance(kind, list):
            return Either(tuple(self._shape({**schema, "type": one}, path) for one in kind))
        if kind == "object":
            return self._object(schema, path, tag)
        if kind == "array":
            return self._array(schema, path)
        if kind == "string":
            form = schema.get("format")
            return Text(_limits(schema), form in _MOMENTS, form not in _FORMATS and "pattern" not in schema)
        if kind in ("integer", "number"):
            return Number(kind == "integer", _limits(schema))
        if kind in ("boolean", "null"):
            return TrueOrFalse() if kind == "boolean" else Nothing()
        raise UnaskableError(
            f"`{path}`: give it a type to ask for, such as `str`, `list[str]` or a model "
            "(a `PlainValidator` takes it as `json_schema_input_type`)"
        )

    def _reference(self, reference: str, path: str, tag: str) -> Shape:
        name = reference.removeprefix("#/$defs/")
        known = (
            f"{name}_{tag}" if tag else name
        )  # a field that distinguishes the kinds of a union is never null
        if known not in self._known:
            self._known[known] = Nothing()  # it may refer to itself
            self._known[known] = self._shape(self._definitions[name], path, tag)
        return Reference(known, self._known)

    def _choice(self, schema: JsonObject, path: str) -> Shape:
        members = schema.get("enum") or [schema["const"]]
        if not all(isinstance(one, str | int | float | None) for one in members):
            raise UnaskableError(f"`{path}`: its values have to be texts, numbers, true or false")
        names = dict(zip(((type(one), one) for one in members), schema.get(_NAMES, ()), strict=False))
        kinds = tuple(dict.fromkeys((type(one), one) for one in members if one is not None))
        values = tuple(value for _, value in kinds)
        if not values:
            return Nothing()
        long = sum(len(one) for one in values if isinstance(one, str)) > _MAX_CHOICE_CHARACTERS
        spelled = (long or kinds in self._spelled) and all(isinstance(one, str) for one in values)
        if not spelled:
            again = self._choices.get(kinds, 0) if len(values) <= FEW_VALUES else 0
            self._choices[kinds] = again + len(values) + 1  # and null
        called = tuple(_differing(names.get(kind, ""), kind[1]) for kind in kinds)
        return Choice(values, None in members, spelled, called if any(called) else ())

    def _either(self, schema: JsonObject, branches: list[Any], path: str) -> Shape:
        if "allOf" in schema and len(branches) > 1:
            raise UnaskableError(f"`{path}`: `allOf` cannot be asked for")
        tag = schema.get("discriminator", {}).get("propertyName", "")
        shapes = tuple(self._shape(one, path, tag) for one in branches)
        return shapes[0] if len(shapes) == 1 else Either(shapes)

    def _object(self, schema: JsonObject, path: str, tag: str) -> Shape:
        if schema.get("properties"):
            return Fields(self.fields(schema, path, tag))
        values = schema.get("additionalProperties", False)
        for one in schema.get("patternProperties", {}).values():
            values = one
        if values is False:
            return Fields()
        inner = self._shape(values if isinstance(values, Mapping) else {}, f"{path}[…]")
        names = schema.get("propertyNames")
        key = self._shape({"type": "string", **names}, path) if names else Text()
        return Entries(key, inner, _limits(schema))

    def _array(self, schema: JsonObject, path: str) -> Shape:
        places = schema.get("prefixItems")
        if not places:
            item = self._shape(schema.get("items", {}), f"{path}[]")
            return Items(item, _limits(schema), unique=schema.get("uniqueItems") is True)
        if schema.get("items") or schema.get("maxItems") != len(places):
            raise UnaskableError(f"`{path}`: a tuple has to have a fixed number of places")
        shapes = tuple(self._shape(one, f"{path}[{at}]") for at, one in enumerate(places))
        if len(shapes) == 1:
            return Items(shapes[0], "exactly one item")
        return Places(shapes, tuple(str(one.get("title", "")) for one in places))


def _differing(name: str, value: object) -> str:
    """Return the name of an enum's member unless its value says the same."""
    return "" if folded_name(name) == folded_name(str(value)) else name


def _words(schema: JsonObject, shape: Shape) -> str:
    """Describe what a strict schema cannot express: the description, formats, bounds and examples."""
    described = str(schema.get("description", "")).strip()
    examples = schema.get("examples")
    told = (one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in examples or ())
    given = ", ".join(told) if isinstance(examples, list) else ""
    notes = "; ".join(one for one in (shape.words(), given and f"for example {given}") if one)
    return f"{described} ({notes})" if described and notes else described or notes


def _limits(schema: JsonObject) -> str:
    """Describe format and bounds in words."""
    told = [_FORMATS[schema["format"]]] if schema.get("format") in _FORMATS else []
    told += [words.format(schema[word]) for word, words in _BOUNDS.items() if word in schema]
    return ", ".join(told)
