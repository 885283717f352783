"""The shapes of values: how each is asked for in a strict JSON schema, and how its answer is read back.

Strict decoding knows less than JSON Schema: no mappings with free keys, no tuples, no bounds. What it does
not know is asked for in another form and put back when the answer is read: a mapping as a list of key and
value, a tuple as an object with a property for each place. What a schema cannot say (formats, bounds) is told
in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json import JSONDecodeError, loads
from typing import Any, Final, TypeAlias

from connectors.llm.json_text import NumberLiteral
from connectors.llm.placeholders import says_nothing
from connectors.llm.surrogates import whole_text

__all__ = [
    "FEW_VALUES",
    "Choice",
    "Either",
    "Entries",
    "Field",
    "Fields",
    "Flag",
    "Items",
    "JsonObject",
    "Nothing",
    "Number",
    "Places",
    "Reference",
    "Shape",
    "Text",
    "nullable",
    "object_schema",
]

JsonObject: TypeAlias = dict[str, Any]
Definitions: TypeAlias = dict[str, JsonObject]

FEW_VALUES: Final = (
    20  # values of a choice that are repeated where they are used; more stand once, in `$defs`
)
_NULL: Final[JsonObject] = {"type": "null"}


class Shape:
    """What a value looks like. `accepts_null` is whether the model takes a null there."""

    accepts_null: bool = False

    def asked(self, defs: Definitions) -> JsonObject:
        """Its strict JSON schema; what it refers to is added to `defs`."""
        raise NotImplementedError

    def fits(self, value: object) -> bool:
        """True when an answer has this form."""
        raise NotImplementedError

    def read(self, value: object) -> object:
        """An answer in the form that the model validates; None when it says nothing."""
        return value

    def words(self) -> str:
        """What a strict schema does not say of it: formats, bounds, and values, if they are few."""
        return ""

    def lists(self, value: object) -> bool:
        """True when the value is one of those that the shape names."""
        return False


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A text. `form` says in words what it has to look like; "" is free text."""

    form: str = ""

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "string"}

    def fits(self, value: object) -> bool:
        return isinstance(value, str)

    def read(self, value: object) -> object:
        return _as_text(value)

    def words(self) -> str:
        return self.form


@dataclass(frozen=True, slots=True)
class Number(Shape):
    """A number, whole or not. `form` says its bounds in words."""

    whole: bool = False
    form: str = ""

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "integer" if self.whole else "number"}

    def fits(self, value: object) -> bool:
        return isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)

    def read(self, value: object) -> object:
        if isinstance(value, str):
            try:
                value = loads(value.strip(), parse_float=NumberLiteral)
            except (JSONDecodeError, RecursionError):
                return value
        return int(value) if self.whole and isinstance(value, float) and value.is_integer() else value

    def words(self) -> str:
        return self.form


@dataclass(frozen=True, slots=True)
class Flag(Shape):
    """True or false."""

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "boolean"}

    def fits(self, value: object) -> bool:
        return isinstance(value, bool)

    def read(self, value: object) -> object:
        return (
            {"true": True, "false": False}.get(value.strip().casefold(), value)
            if isinstance(value, str)
            else value
        )


@dataclass(frozen=True, slots=True)
class Nothing(Shape):
    """Null and nothing else."""

    accepts_null: bool = True

    def asked(self, defs: Definitions) -> JsonObject:
        return dict(_NULL)

    def fits(self, value: object) -> bool:
        return value is None


@dataclass(frozen=True, slots=True)
class Choice(Shape):
    """One of some values (texts, numbers, true, false). `spelled`: too many for a schema, told in words."""

    values: tuple[object, ...]
    accepts_null: bool = False
    spelled: bool = False

    def asked(self, defs: Definitions) -> JsonObject:
        branches = [
            {"type": kind, "enum": found} for kind, found in self._by_type().items() if kind != "string"
        ]
        texts = self._by_type().get("string")
        if texts and self.spelled:
            branches.append({"type": "string", "description": f"exactly one of: {', '.join(texts)}"})
        elif texts:
            branches.append({"type": "string", "enum": texts})
        schema = branches[0] if len(branches) == 1 else {"anyOf": branches}
        if len(self.values) <= FEW_VALUES or self.spelled:
            return schema
        name = next((name for name, known in defs.items() if known == schema), f"choice_{len(defs) + 1}")
        defs[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def _by_type(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for value in self.values:
            found.setdefault(_type_of(value), []).append(value)
        return found

    def fits(self, value: object) -> bool:
        return any(_same(value, one) for one in self.values)

    def read(self, value: object) -> object:
        if self.fits(value) or not isinstance(value, str | int | float):
            return value
        alike = [one for one in self.values if _folded(one) == _folded(value)]
        return alike[0] if len(alike) == 1 else value

    def words(self) -> str:
        few = 1 < len(self.values) <= FEW_VALUES
        return f"one of: {'; '.join(map(_spelled, self.values))}" if few else ""

    def lists(self, value: object) -> bool:
        return self.fits(value) or any(_folded(value) == _folded(one) for one in self.values)


@dataclass(frozen=True, slots=True)
class Items(Shape):
    """A list of alike values. `form` says in words how many."""

    item: Shape
    form: str = ""

    def asked(self, defs: Definitions) -> JsonObject:
        return {
            "type": "array",
            "items": _or_null(self.item, defs) if self.item.accepts_null else self.item.asked(defs),
        }

    def fits(self, value: object) -> bool:
        return isinstance(value, list) and all(_fits(self.item, one) for one in value)

    def read(self, value: object) -> object:
        return [_read(self.item, one) for one in value] if isinstance(value, list) else value

    def words(self) -> str:
        each = self.item.words()
        return ", ".join(one for one in (self.form, f"each {each}" if each else "") if one)


@dataclass(frozen=True, slots=True)
class Entries(Shape):
    """A mapping with free keys, asked for as a list of objects with `key` and `value`."""

    key: Shape
    value: Shape
    form: str = ""

    def asked(self, defs: Definitions) -> JsonObject:
        value = _or_null(self.value, defs) if self.value.accepts_null else self.value.asked(defs)
        key = self.key.asked(defs) if isinstance(self.key, Choice) else {"type": "string"}
        return {"type": "array", "items": object_schema({"key": key, "value": value})}

    def fits(self, value: object) -> bool:
        if isinstance(value, Mapping):
            return all(_fits(self.value, one) for one in value.values())
        return isinstance(value, list) and all(
            isinstance(one, Mapping) and one.keys() == {"key", "value"} and _fits(self.value, one["value"])
            for one in value
        )

    def read(self, value: object) -> object:
        if isinstance(value, list) and all(isinstance(one, Mapping) and "key" in one for one in value):
            keys = [str(_as_text(one["key"])) for one in value]
            if len(set(keys)) < len(keys):
                return value  # a key that is there twice has two values, and one of them would be lost
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
    """A tuple of fixed length, asked for as an object with `item_1`, `item_2` and so on."""

    places: tuple[Shape, ...]
    titles: tuple[str, ...] = ()

    def asked(self, defs: Definitions) -> JsonObject:
        properties: JsonObject = {}
        for name, place, title in zip(self._names(), self.places, self._titles(), strict=True):
            asked = _or_null(place, defs) if place.accepts_null else place.asked(defs)
            told = ", ".join(one for one in (title, place.words()) if one)
            properties[name] = _described(asked, told)
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
        required: there is no default for it.
        described: its description and what it has to look like, in words.
        fixed: it tells kinds of records apart, so it is never null.
    """

    shape: Shape
    required: bool = False
    described: str = ""
    fixed: bool = False

    def asked(self, defs: Definitions) -> JsonObject:
        """Its strict JSON schema; null stands for what a document does not state."""
        schema = self.shape.asked(defs) if self.fixed else _or_null(self.shape, defs)
        return _described(schema, self.described)

    def read(self, value: object) -> object:
        """The value; None for a placeholder where it cannot be meant."""
        if isinstance(value, str) and says_nothing(value) and not self.shape.fits(value):
            return None
        return _read(self.shape, value)


@dataclass(frozen=True, slots=True)
class Fields(Shape):
    """A record inside a record."""

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
        return value if fitting is None else fitting.read(value)

    def words(self) -> str:
        return " or ".join(dict.fromkeys(one.words() for one in self.branches if one.words()))

    def lists(self, value: object) -> bool:
        return any(one.lists(value) for one in self.branches)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Reference(Shape):
    """A shape with a name, which may contain itself. `known` has all of them by name."""

    name: str
    known: Mapping[str, Shape]

    @property
    def target(self) -> Shape:
        """The shape of that name."""
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
        # not what is inside: that may be this very shape
        shape = self.known[self.name]
        return shape.words() if isinstance(shape, Choice | Text | Number) else ""

    def lists(self, value: object) -> bool:
        shape = self.known[self.name]
        return isinstance(shape, Choice) and shape.lists(value)


def object_schema(properties: JsonObject) -> JsonObject:
    """An object in which every property has to be and no other may."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def nullable(schema: JsonObject) -> JsonObject:
    """The schema, or null."""
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


def _or_null(shape: Shape, defs: Definitions) -> JsonObject:
    return nullable(shape.asked(defs))


def _described(schema: JsonObject, words: str) -> JsonObject:
    if not words:
        return schema
    # beside a reference nothing else may stand
    return {**({"anyOf": [schema]} if "$ref" in schema else schema), "description": words}


def _fits(shape: Shape, value: object) -> bool:
    return shape.fits(value) or (value is None and shape.accepts_null)


def _read(shape: Shape, value: object) -> object:
    return None if value is None else shape.read(value)


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "integer" if isinstance(value, int) else "number"


def _same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _folded(value: object) -> str:
    return _spelled(value).strip().casefold()


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_text(value: object) -> str | None:
    """A value as text, digit by digit; None when it says nothing that could be stored."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, NumberLiteral):
        return re.sub(r"\.0+\Z", "", value.literal)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        return ", ".join(_told(value)) or None
    return None if value is None or isinstance(value, Mapping) else str(value)


def _told(values: Sequence[object]) -> Iterator[str]:
    for value in values:
        text = _as_text(value)
        if text and not says_nothing(text):
            yield text
