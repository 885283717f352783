"""Convert values of a reply to values of a record."""

from __future__ import annotations

from collections.abc import Mapping

from connectors.llm.names import by_name
from connectors.llm.placeholders import says_nothing
from connectors.llm.schema import TargetSchema
from connectors.llm.shapes import Choice
from connectors.llm.structures import Field

__all__ = ["normalise"]


def normalise(values: Mapping[str, object], schema: TargetSchema) -> dict[str, object]:
    """Return the fields of `schema` that a reply states.

    Other names and spellings of a field are accepted if its own name has no value. Placeholders ("N/A",
    "unknown") count as no value, unless the field's values include them. Numbers become text in text fields
    (an age of 34 is "34"); nothing is truncated. A nullable field without a default is null if not stated.
    """
    found: dict[str, object] = {}
    values = by_name(values, schema.spellings)
    for name, field in schema.fields.items():
        for candidate in schema.names[name]:
            value = _value(values.get(candidate), field)
            if value is not None:
                found[name] = value
                break
        else:
            if field.required and field.shape.accepts_null:
                found[name] = None
    return found


def _value(value: object, field: Field) -> object:
    if isinstance(value, str) and says_nothing(value) and not field.shape.lists(value):
        return None
    if isinstance(value, str) and not (isinstance(field.shape, Choice) and field.shape.fits(value)):
        value = value.strip()
    return field.read(value)
