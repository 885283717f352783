"""Convert values of a reply to values of a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from connectors.llm.schema import TargetSchema, json_type

__all__ = ["normalise"]

# Names that models without strict decoding give to the fields of a medical memo.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "patient_name": ("name", "patient", "full_name"),
    "patient_age": ("age",),
    "phone_number": ("phone", "telephone", "contact_number"),
    "scheduled_appointment_date": ("appointment_date", "date", "scheduled_date"),
    "dental_procedure_name": ("procedure", "treatment", "procedure_name"),
    "doctor": ("doctor_name", "physician", "treating_doctor"),
}

_PLACEHOLDERS: Final = frozenset(
    {
        "", "-", "--", "?", "n/a", "na", "none", "null", "nil", "unknown", "unspecified", "missing", "tbd",
        "to be determined", "not available", "not applicable", "not found", "not given", "not known",
        "not mentioned", "not provided", "not specified", "not stated", "no information",
    }
)  # fmt: skip


def normalise(values: Mapping[str, object], schema: TargetSchema) -> dict[str, object]:
    """Return the fields of `schema` that a reply states.

    A field answers to its aliases when it has no value of its own. Placeholders ("N/A", "unknown") count as
    no value. Numbers become text where the field is text (an age of 34 is "34"); nothing is cut.
    """
    found: dict[str, object] = {}
    for name, info in schema.fields.items():
        for candidate in (name, *_ALIASES.get(name, ())):
            if candidate != name and candidate in schema.fields:
                continue  # a field of its own
            value = _value(values.get(candidate), info.annotation)
            if value is not None:
                found[name] = value
                break
    return found


def _value(value: object, annotation: Any) -> object:
    if isinstance(value, str):
        text = value.strip()
        return None if text.strip(" .[]()<>").casefold() in _PLACEHOLDERS else text
    if value is None or json_type(annotation) != {"type": "string"}:
        return value
    return _text(value)


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list):
        items = [text for item in value if (text := _value(item, str)) is not None]
        return ", ".join(map(str, items)) or None
    if isinstance(value, Mapping):
        return None  # an object where text was asked for says nothing that could be stored
    return str(value)
