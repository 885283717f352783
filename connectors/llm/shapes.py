"""The shapes of single values: how to request each in a strict JSON schema, and how to read its answer.

Strict decoding supports only part of JSON Schema. Formats and bounds are stated in words instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError, loads
from typing import Any, Final, TypeAlias

from connectors.llm.json_text import NumberLiteral
from connectors.llm.spelling import folded_name, says_nothing, whole_text

JsonObject: TypeAlias = dict[str, Any]
Definitions: TypeAlias = dict[str, JsonObject]

_NUMBER: Final = re.compile(r"\s*[+-]?\d+(?:\.\d+)?\s*")
_ALONE: Final = " (a number alone)"  # reports why it is not a date or time

_MAX_NAMED: Final = 100
FEW_VALUES: Final = 20
"""Maximum values of an inline choice; longer choices are defined once, in `$defs`."""


class Shape:
    """The shape of a value. `accepts_null`: the model allows null there."""

    accepts_null: bool = False

    def asked(self, defs: Definitions) -> JsonObject:
        """Return its strict JSON schema; definitions are added to `defs`."""
        raise NotImplementedError

    def fits(self, value: object) -> bool:
        """Return whether an answer has this form."""
        raise NotImplementedError

    def read(self, value: object) -> object:
        """Convert an answer for validation; return None for a placeholder."""
        return value

    def words(self) -> str:
        """Describe what a strict schema cannot express: formats, bounds, and values, if there are few."""
        return ""

    def lists(self, value: object) -> bool:
        """Return whether the value is one of those that the shape lists."""
        return False


@dataclass(frozen=True, slots=True)
class Text(Shape):
    """A text. `form` describes its format in words.

    `moment`: a date, a time or a duration. Pydantic reads a number as seconds there, so a bare year would
    become a minute of 1970. `free`: any text of the right length.
    """

    form: str = ""
    moment: bool = False
    free: bool = True

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "string"}

    def fits(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        return not self.moment or not (is_number(value) or value.endswith(_ALONE))

    def read(self, value: object) -> object:
        if _holds_mapping(value):
            return value  # no part of it may be lost
        text = as_text(value)
        return f"{text}{_ALONE}" if self.moment and text and is_number(text) else text

    def words(self) -> str:
        return self.form


@dataclass(frozen=True, slots=True)
class Number(Shape):
    """An integer or decimal number. `form` describes its bounds in words."""

    whole: bool = False
    form: str = ""

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "integer" if self.whole else "number"}

    def fits(self, value: object) -> bool:
        return isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)

    def read(self, value: object) -> object:
        if isinstance(value, bool):
            return str(value).lower()  # which must not be read as a number
        if isinstance(value, str):
            try:
                value = loads(value.strip(), parse_float=NumberLiteral)
            except (JSONDecodeError, RecursionError):
                return value
        return int(value) if self.whole and isinstance(value, float) and value.is_integer() else value

    def words(self) -> str:
        return self.form


@dataclass(frozen=True, slots=True)
class TrueOrFalse(Shape):
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
    """Only null."""

    accepts_null: bool = True

    def asked(self, defs: Definitions) -> JsonObject:
        return {"type": "null"}

    def fits(self, value: object) -> bool:
        return value is None


@dataclass(frozen=True, slots=True)
class Choice(Shape):
    """One of several values (texts, numbers, true, false). `spelled`: listed in words, not in the schema.

    `names`: the names of an enum's members, "" for those that say no more than their values.
    """

    values: tuple[object, ...]
    accepts_null: bool = False
    spelled: bool = False
    names: tuple[str, ...] = ()

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
        alike = [one for one in self.values if _folded(one) == _folded(value)] or self._named(value)
        return alike[0] if len(alike) == 1 else value

    def words(self) -> str:
        plain = [_spelled(value) for value in self.values]
        named = [
            f"{value} ({name})" if len(name) > len(value) else value
            for value, name in zip(plain, self.names or plain, strict=True)
        ]
        most = FEW_VALUES if named == plain else _MAX_NAMED
        return f"one of: {'; '.join(named)}" if 1 < len(named) <= most else ""

    def lists(self, value: object) -> bool:
        return any(_folded(value) == _folded(one) for one in self.values) or bool(self._named(value))

    def _named(self, value: object) -> list[object]:
        """Return the values that are meant by a name, or by a value with its name behind it."""
        text = folded_name(_spelled(value))
        named = ((one, name) for one, name in zip(self.values, self.names, strict=False) if name)
        return [one for one, name in named if text in (folded_name(name), folded_name(f"{one}{name}"))]


def is_number(text: str) -> bool:
    """Return whether a text is just a number."""
    return bool(_NUMBER.fullmatch(text))


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


def as_text(value: object) -> str | None:
    """Convert a value to text, keeping all digits; return None for a placeholder."""
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


def _holds_mapping(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value)
    return isinstance(value, list) and any(map(_holds_mapping, value))


def _told(values: Sequence[object]) -> Iterator[str]:
    for value in values:
        text = as_text(value)
        if text and not says_nothing(text):
            yield text
