"""What models write in other ways: names of fields, missing values, and texts that are not valid Unicode."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

_PLACEHOLDERS: Final = frozenset(
    {
        "", "-", "--", "?", "n/a", "na", "none", "null", "nil", "unknown", "unspecified", "missing", "tbd",
        "to be determined", "not available", "not applicable", "not found", "not given", "not known",
        "not mentioned", "not provided", "not specified", "not stated", "no information",
    }
)  # fmt: skip


def says_nothing(text: str) -> bool:
    """Return whether a text is "N/A", "unknown" or the like."""
    return text.strip().strip(" .[]()<>").casefold() in _PLACEHOLDERS


def is_whole(text: str) -> bool:
    """Return whether a text has no lone surrogate, which JSON and Python can represent, and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_text(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD."""
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# Alternative names from models without strict decoding, for the fields of a medical memo.
OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "patient_name": ("name", "patient", "full_name"),
    "patient_age": ("age",),
    "phone_number": ("phone", "telephone", "contact_number"),
    "scheduled_appointment_date": ("appointment_date", "date", "scheduled_date"),
    "dental_procedure_name": ("procedure", "treatment", "procedure_name"),
    "doctor": ("doctor_name", "physician", "treating_doctor"),
}


@lru_cache(maxsize=4096)
def folded_name(name: str) -> str:
    """Fold case and separators of a name: `patientName` and `Patient Name` become `patient_name`."""
    return "".join(character for character in name.casefold() if character.isalnum())


def by_name(values: Mapping[str, object], known: Collection[str]) -> Mapping[str, object]:
    """Return the values, adding known names for differently spelled ones; exact names take precedence."""
    others = [name for name in values if name not in known]
    if not others:
        return values
    meant = {folded_name(name): name for name in known}
    found = {meant[folded]: values[name] for name in others if (folded := folded_name(name)) in meant}
    return {**values, **{name: value for name, value in found.items() if values.get(name) is None}}
