"""The parts of a JSON Schema that determine the form of an answer."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from typing import TypeGuard

JsonObject = Mapping[str, object]

_SLOT = re.compile(r"r\d+")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATES = (
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d)-(?P<day>\d\d)"),
    re.compile(r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})"),
    re.compile(r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})"),
    re.compile(r"(?P<month>[A-Za-z]{3})[a-z]*\.? (?P<day>\d{1,2})\w*,? (?P<year>\d{4})"),
    re.compile(r"(?P<day>\d{1,2})\w*\.? (?P<month>[A-Za-z]{3})[a-z]* (?P<year>\d{4})"),
)


def is_object(value: object) -> TypeGuard[JsonObject]:
    return isinstance(value, Mapping)


def resolve(schema: object, root: JsonObject) -> JsonObject:
    """Resolve a `$ref` ("#/$defs/Name"), and choose the first branch of `anyOf` that is not null."""
    for _ in range(16):  # references may be chained; a cycle must end
        if not is_object(schema):
            return {}
        reference, branches = schema.get("$ref"), schema.get("anyOf")
        if isinstance(reference, str) and reference.startswith("#/"):
            schema = _follow(reference, root)
        elif isinstance(branches, list):
            schema = next((b for b in branches if not (is_object(b) and b.get("type") == "null")), {})
        else:
            return schema
    return {}


def _follow(reference: str, root: JsonObject) -> object:
    target: object = root
    for step in reference.removeprefix("#/").split("/"):
        target = target.get(step) if is_object(target) else None
    return target


def properties(schema: JsonObject) -> JsonObject:
    found = schema.get("properties")
    return found if is_object(found) else {}


def slots(schema: JsonObject) -> dict[str, JsonObject]:
    """Return the schema of every slot `r1..rN`; empty when the schema describes one flat object."""
    found = {name: resolve(part, schema) for name, part in properties(schema).items()}
    if found and all(_SLOT.fullmatch(name) and properties(part) for name, part in found.items()):
        return found
    return {}


def coerce(value: str | None, schema: JsonObject) -> object:
    """Convert found text to the schema's type, date format or enum member; None if that fails."""
    if value is None:
        return None
    kinds = schema.get("type")
    wanted = kinds if isinstance(kinds, list) else [kinds]
    choices = schema.get("enum")
    if isinstance(choices, list):
        return next((c for c in choices if isinstance(c, str) and c.lower() == value.lower()), None)
    if "string" in wanted or wanted == [None]:
        return iso_date(value) if schema.get("format") == "date" else value
    number = re.search(r"-?\d+(?:\.\d+)?", value)
    if "integer" in wanted:
        return int(float(number[0])) if number else None
    if "number" in wanted:
        return float(number[0]) if number else None
    if "boolean" in wanted:
        return {"yes": True, "true": True, "no": False, "false": False}.get(value.lower())
    return None


def iso_date(value: str) -> str | None:
    """Convert a written date to YYYY-MM-DD, else None; month first with slashes, day first with dots."""
    match = next((found for pattern in _DATES if (found := pattern.search(value))), None)
    if match is None:
        return None
    month = match["month"]
    try:
        number = _MONTHS.index(month.lower()) + 1 if month.isalpha() else int(month)
        return dt.date(int(match["year"]), number, int(match["day"])).isoformat()
    except ValueError:
        return None
