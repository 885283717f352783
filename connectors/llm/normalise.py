"""Convert values of a reply to values of a record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from connectors.llm.names import by_name
from connectors.llm.placeholders import says_nothing
from connectors.llm.schema import TargetSchema
from connectors.llm.shapes import Choice
from connectors.llm.structures import Field

__all__ = ["normalise", "spellings"]

# Names that models without strict decoding give to the fields of a medical memo.
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "patient_name": ("name", "patient", "full_name"),
    "patient_age": ("age",),
    "phone_number": ("phone", "telephone", "contact_number"),
    "scheduled_appointment_date": ("appointment_date", "date", "scheduled_date"),
    "dental_procedure_name": ("procedure", "treatment", "procedure_name"),
    "doctor": ("doctor_name", "physician", "treating_doctor"),
}


def normalise(values: Mapping[str, object], schema: TargetSchema) -> dict[str, object]:
    """Return the fields of `schema` that a reply states.

    A field answers to other names, and to other spellings, when it has no value of its own. Placeholders
    ("N/A", "unknown") count as no value, unless the field itself lists them. Numbers become text where the
    field is text (an age of 34 is "34"); nothing is cut. A field that may be null and has no default is null
    when it is not stated.
    """
    found: dict[str, object] = {}
    values = by_name(values, spellings(schema))
    for name, field in schema.fields.items():
        for candidate in _candidates(name, schema):
            value = _value(values.get(candidate), field)
            if value is not None:
                found[name] = value
                break
        else:
            if field.required and field.shape.accepts_null:
                found[name] = None
    return found


def spellings(schema: TargetSchema) -> frozenset[str]:
    """All names that a reply may use for the fields of a record."""
    return frozenset(one for name in schema.fields for one in _candidates(name, schema))


def _candidates(name: str, schema: TargetSchema) -> Iterator[str]:
    yield name
    info = schema.model.model_fields[name]
    aliases = (info.alias, info.validation_alias, info.serialization_alias)
    others = (*(one for one in aliases if isinstance(one, str)), *_OTHER_NAMES.get(name, ()))
    yield from (one for one in dict.fromkeys(others) if one not in schema.fields)


def _value(value: object, field: Field) -> object:
    if isinstance(value, str) and says_nothing(value) and not field.shape.lists(value):
        return None
    if isinstance(value, str) and not (isinstance(field.shape, Choice) and field.shape.fits(value)):
        value = value.strip()
    return field.read(value)
