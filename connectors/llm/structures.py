"""The shapes of composite values: lists, mappings, tuples, records, unions, and named models.

What strict decoding does not support is requested in another form and converted back: a mapping as a list of
key and value, a tuple as an object with a property per position.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.llm.json_text import parse, written
from connectors.llm.shapes import (
    Choice,
    Definitions,
    JsonObject,
    Nothing,
    Number,
    Shape,
    Text,
    as_text,
    is_number,
)
from connectors.llm.spelling import by_name, folded_name, says_nothing

_NULL: Final[JsonObject] = {"type": "null"}
_CHANGED: Final = object()
_DATED: Final = re.compile(r"\d{4}-\d\d-\d\d")
_BESIDE_VALUE: Final = frozenset(
    {
        "value", "type", "description", "confidence", "score", "probability", "certainty", "source", "quote",
        "evidence", "reason", "reasoning", "explanation",
    }
)  # fmt: skip
"""Folded names of keys that may be dropped when an object is unwrapped to its `value`."""


@dataclass(frozen=True, slots=True)
class Items(Shape):
    """A list of values of one shape. `form` describes its length in words. `unique`: it is a set."""

    item: Shape
    form: str = ""
    unique: bool = False

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "array", "items": _asked(self.item, defs)}

    def fits(self, value: object) -> bool:
        return isinstance(value, list) and all(_fits(self.item, one) for one in value)

    def read(self, value: object) -> object:
        if not isinstance(value, list):
            return value
        items = [_read(self.item, one) for one in value]
        return list({written(one): one for one in items}.values()) if self.unique else items

    def words(self) -> str:
        each = self.item.words()
        return ", ".join(one for one in (self.form, f"each {each}" if each else "") if one)


@dataclass(frozen=True, slots=True)
class Entries(Shape):
    """A mapping with free keys, requested as a list of objects with `key` and `value`."""

    key: Shape
    value: Shape
    form: str = ""

    def asked(self, defs: Definitions) -> JsonObject:
        key = self.key.asked(defs) if isinstance(self.key, Choice) else {"type": "string"}
        return {"type": "array", "items": object_schema({"key": key, "value": _asked(self.value, defs)})}

    def fits(self, value: object) -> bool:
        if isinstance(value, Mapping):
            return all(_fits(self.value, one) for one in value.values())
        return isinstance(value, list) and all(
            isinstance(one, Mapping) and one.keys() == {"key", "value"} and _fits(self.value, one["value"])
            for one in value
        )

    def read(self, value: object) -> object:
        if isinstance(value, list) and all(isinstance(one, Mapping) and "key" in one for one in value):
            keys = [str(as_text(one["key"])) for one in value]
            if len(set(keys)) < len(keys):
                return value  # a repeated key has two values, and one of them would be lost
            value = {key: one.get("value") for key, one in zip(keys, value, strict=True)}
        if isinstance(value, Mapping):
            return {key: _read(self.value, one) for key, one in value.items()}
        return value

    def words(self) -> str:
        told = (self.form, *(f"each {name} {one.words()}" for name, one in self._parts() if one.words()))
        return ", ".join(one for one in told if one)

    def _parts(self) -> list[tuple[str, Shape]]:
        return [("key", self.key), ("value", self.value)]


@dataclass(frozen=True, slots=True)
class Places(Shape):
    """A tuple of fixed length, requested as an object with `item_1`, `item_2` and so on."""

    places: tuple[Shape, ...]
    titles: tuple[str, ...] = ()

    def asked(self, defs: Definitions) -> JsonObject:
        properties: JsonObject = {}
        for name, place, title in zip(self._names(), self.places, self._titles(), strict=True):
            told = ", ".join(one for one in (title, place.words()) if one)
            properties[name] = _described(_asked(place, defs), told)
        return object_schema(properties)

    def _names(self) -> list[str]:
        return [f"item_{number}" for number in range(1, len(self.places) + 1)]

    def _titles(self) -> Sequence[str]:
        return self.titles or [""] * len(self.places)

    def _in_order(self, value: object) -> list[object] | None:
        if isinstance(value, Mapping) and value.keys() == set(self._names()):
            return [value[name] for name in self._names()]
        return value if isinstance(value, list) and len(value) == len(self.places) else None

    def fits(self, value: object) -> bool:
        found = self._in_order(value)
        return found is not None and all(map(_fits, self.places, found))

    def read(self, value: object) -> object:
        found = self._in_order(value)
        return value if found is None else [*map(_read, self.places, found)]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record.

    Args:
        required: it has no default.
        described: its description and format, in words.
        fixed: it distinguishes kinds of records, so it is never null.
    """

    shape: Shape
    required: bool = False
    described: str = ""
    fixed: bool = False

    def asked(self, defs: Definitions) -> JsonObject:
        """Return its strict JSON schema; null means that the document does not state it."""
        schema = self.shape.asked(defs) if self.fixed else nullable(self.shape.asked(defs))
        return _described(schema, self.described)

    def read(self, value: object) -> object:
        """Convert a value; return None for a placeholder that is not a valid value."""
        shape = self.shape
        if isinstance(value, str) and says_nothing(value) and not (shape.fits(value) or shape.lists(value)):
            return None
        return _read(self.shape, self._unwrapped(value))

    def _unwrapped(self, value: object) -> object:
        """Unwrap a text of JSON, or an object with `value`, if the content fits.

        An object with a unit is not unwrapped: the unit would be lost.
        """
        inner = value
        if isinstance(value, str) and value.startswith(("{", "[")):
            try:
                inner = parse(value)
            except ValueError:
                return value
        elif isinstance(value, Mapping) and _BESIDE_VALUE.issuperset(map(folded_name, value)):
            inner = value.get("value")
        return inner if inner is not None and self.shape.fits(inner) and not self.shape.fits(value) else value


@dataclass(frozen=True, slots=True)
class Fields(Shape):
    """A nested record."""

    fields: Mapping[str, Field] = field(default_factory=dict)

    def asked(self, defs: Definitions) -> JsonObject:
        return object_schema({name: one.asked(defs) for name, one in self.fields.items()})

    def fits(self, value: object) -> bool:
        if not isinstance(value, Mapping):
            return False
        told = {name: one for name, one in value.items() if one is not None}
        return (
            told.keys() <= self.fields.keys()
            and all(_fits(self.fields[name].shape, one) for name, one in told.items())
            and all(name in told for name, one in self.fields.items() if one.fixed)
        )

    def read(self, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        value = by_name(value, self.fields)
        found: dict[str, object] = {}
        for name, one in self.fields.items():
            told = one.read(value.get(name))
            if told is not None or (one.required and one.shape.accepts_null):
                found[name] = told
        return found


@dataclass(frozen=True, slots=True)
class Either(Shape):
    """One of several shapes."""

    branches: tuple[Shape, ...]

    @property
    def accepts_null(self) -> bool:  # type: ignore[override]
        return any(one.accepts_null for one in self.branches)

    @property
    def mixes_moments(self) -> bool:
        """Return whether a text may be a moment or anything else."""
        return {one.moment for one in self.branches if isinstance(one, Text)} == {True, False}

    def asked(self, defs: Definitions) -> JsonObject:
        flat: list[JsonObject] = []
        for one in self.branches:
            schema = one.asked(defs)
            flat += schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
        return {"anyOf": [one for number, one in enumerate(flat) if one not in flat[:number]]}

    def fits(self, value: object) -> bool:
        return any(_fits(one, value) for one in self.branches)

    def read(self, value: object) -> object:
        fitting = next((one for one in self.branches if one.fits(value)), None)
        if fitting is not None:
            return fitting.read(value)
        told = [(one, one.read(value)) for one in self.branches if not isinstance(one, Nothing)]
        if len(told) == 1:
            return told[0][1]
        fallback = next((read for one, read in told if isinstance(one, Text) and one.moment), value)
        return next((read for one, read in told if one.fits(read)), fallback)

    def words(self) -> str:
        return " or ".join(dict.fromkeys(one.words() for one in self.branches if one.words()))

    def lists(self, value: object) -> bool:
        return any(one.lists(value) for one in self.branches)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reference(Shape):
    """A reference to a named shape, which may be recursive. `known` has all of them by name."""

    name: str
    known: Mapping[str, Shape]

    @property
    def target(self) -> Shape:
        """Return the shape with that name."""
        return self.known[self.name]

    @property
    def accepts_null(self) -> bool:  # type: ignore[override]
        return self.known[self.name].accepts_null

    def asked(self, defs: Definitions) -> JsonObject:
        if self.name not in defs:
            defs[self.name] = {}  # it may refer to itself
            defs[self.name] = self.known[self.name].asked(defs)
        return {"$ref": f"#/$defs/{self.name}"}

    def fits(self, value: object) -> bool:
        return self.known[self.name].fits(value)

    def read(self, value: object) -> object:
        return self.known[self.name].read(value)

    def words(self) -> str:
        # without the target's words: it may contain this reference
        shape = self.known[self.name]
        return shape.words() if isinstance(shape, Choice | Text | Number) else ""

    def lists(self, value: object) -> bool:
        shape = self.known[self.name]
        return isinstance(shape, Choice) and shape.lists(value)


def as_told(shape: Shape, told: object, found: object) -> Any:
    """Return the validated value, or the original text if Pydantic read a number as a moment.

    Sets keep the order of `told`, so that each member has its span, and a resume gives the same record.
    For `datetime | str` it reads "2026" as seconds since 1970.
    """
    if isinstance(shape, Reference):
        return as_told(shape.target, told, found)
    if isinstance(shape, Either):
        if isinstance(told, str):
            return told if shape.mixes_moments and is_number(told) and _is_dated(found) else found
        shape = next((one for one in shape.branches if one.fits(told)), shape)
    if isinstance(shape, Items) and shape.unique and isinstance(told, list) and isinstance(found, list):
        found = _in_stated_order(told, found)
    if isinstance(told, list) and isinstance(found, list) and len(told) == len(found):
        if isinstance(shape, Items):
            return [as_told(shape.item, *pair) for pair in zip(told, found, strict=True)]
        if isinstance(shape, Places):
            return [as_told(*one) for one in zip(shape.places, told, found, strict=True)]
    if isinstance(told, Mapping) and isinstance(found, Mapping):
        shapes: dict[object, Shape] = {}
        if isinstance(shape, Fields):
            shapes = {name: one.shape for name, one in shape.fields.items()}
        elif isinstance(shape, Entries):
            shapes = dict.fromkeys(told, shape.value)
        both = told.keys() & found.keys() & shapes.keys()
        return {**found, **{name: as_told(shapes[name], told[name], found[name]) for name in both}}
    return found


def _in_stated_order(stated: list[object], found: list[object]) -> list[object]:
    """Order the members of a set, which differs from process to process, as the document states them.

    Members that a validator has changed take the remaining places.
    """
    left: dict[str, list[object]] = {}
    for one in sorted(found, key=written):
        left.setdefault(_spelled(one), []).append(one)
    kept = [rest.pop() if (rest := left.get(_spelled(one))) else _CHANGED for one in stated]
    changed = iter([one for rest in left.values() for one in rest])
    ordered = [next(changed, _CHANGED) if one is _CHANGED else one for one in kept]
    return [*(one for one in ordered if one is not _CHANGED), *changed]


def _spelled(value: object) -> str:
    """Return one text for a number and for the text that its type makes of it."""
    return value if isinstance(value, str) else written(value)


def _is_dated(value: object) -> bool:
    return isinstance(value, str) and _DATED.match(value) is not None


def takes_all(shape: Shape) -> bool:
    """Return whether values from several parts can be combined: lists, or lines of free text."""
    if isinstance(shape, Reference):
        shape = shape.target
    if isinstance(shape, Either):
        return any(map(takes_all, shape.branches))
    return shape.free if isinstance(shape, Text) else isinstance(shape, Items)


def object_schema(properties: JsonObject) -> JsonObject:
    """Return the schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def nullable(schema: JsonObject) -> JsonObject:
    """Return the schema, extended to allow null."""
    if schema.get("type") == "null":
        return schema
    if schema.keys() == {"anyOf"}:
        has_null = _NULL in schema["anyOf"]
        return schema if has_null else {"anyOf": [*schema["anyOf"], dict(_NULL)]}
    if schema.keys() == {"type"}:
        return {"type": [schema["type"], "null"]}
    if schema.keys() == {"type", "enum"}:
        return {"type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    return {"anyOf": [schema, dict(_NULL)]}


def _asked(shape: Shape, defs: Definitions) -> JsonObject:
    """Return the schema of a value inside another one, with null only if the model allows it there."""
    return nullable(shape.asked(defs)) if shape.accepts_null else shape.asked(defs)


def _described(schema: JsonObject, words: str) -> JsonObject:
    if not words:
        return schema
    # strict schemas allow no other keyword next to a reference
    return {**({"anyOf": [schema]} if "$ref" in schema else schema), "description": words}


def _fits(shape: Shape, value: object) -> bool:
    return shape.fits(value) or (value is None and shape.accepts_null)


def _read(shape: Shape, value: object) -> object:
    return None if value is None else shape.read(value)
