"""Labelled values in a document: ``Patient Name: Jane Roe``, ``| Age | 41 |``, a label above its value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

# Most specific first: a document's "appointment date" wins over its bare "date".
ALIASES: Mapping[str, tuple[str, ...]] = {
    "patient_name": ("patient name", "name of patient", "full name", "patient", "client", "name"),
    "patient_age": ("patient age", "age", "alter"),
    "phone_number": (
        "phone number", "contact number", "telephone number", "mobile number", "contact phone", "phone",
        "telephone", "mobile", "cell", "tel", "telefon",
    ),
    "scheduled_appointment_date": (
        "scheduled appointment date", "scheduled appointment", "appointment date", "scheduled date",
        "date of appointment", "appointment", "visit date", "scheduled for", "termin", "date",
    ),
    "dental_procedure_name": (
        "dental procedure name", "dental procedure", "procedure name", "planned procedure", "procedure",
        "planned treatment", "treatment", "behandlung", "eingriff",
    ),
    "doctor": (
        "treating doctor", "treating physician", "treating dentist", "doctor name", "attending doctor",
        "doctor", "physician", "dentist", "provider", "surgeon", "dr", "zahnarzt", "zahnärztin",
    ),
}  # fmt: skip

_PLACEHOLDERS = frozenset(
    {"", "-", "--", "n/a", "na", "none", "null", "unknown", "tbd", "not provided", "not found"}
)
_BULLET = re.compile(r"^\s*(?:[-*\u2022\u00b7>]\s+|\d{1,2}[.)]\s+)+")
_PAIR = re.compile(r"^(?P<label>[^:=|\t]{1,40}?)\s*(?::|=|\t|\s\|\s|\s?\.{3,})\s*(?P<value>.*)$")
_COLUMNS = re.compile(r"\s*(?:\||;|\s{3,}|\t)\s*(?=[^:|;]{1,40}:)")
_MAIL_FIELD = re.compile(r"^(From|To|Sent|Date|Subject|Cc|Reply-To)\s*:", re.MULTILINE)


def strip_mail_header(text: str) -> str:
    """Return the body of an e-mail (RFC 5322: everything after the first blank line); other text unchanged.

    `Date:` and `From:` describe the e-mail, so neither is a value of the record.
    """
    header, _blank, body = text.lstrip().partition("\n\n")
    # a memo may also begin with "Date:"; an e-mail has a sender and another header
    return body if {"From"} < set(_MAIL_FIELD.findall(header)) else text


def labelled_values(text: str) -> dict[str, str]:
    """Return every labelled value by its normalised label; the first of a repeated label counts.

    Placeholders such as "n/a" or "tbd" are not values.
    """
    values: dict[str, str] = {}
    for label, value in _pairs(text.splitlines()):
        if label and value.lower() not in _PLACEHOLDERS:
            values.setdefault(label, value)
    return values


def find_labelled(field: str, values: Mapping[str, str]) -> str | None:
    """Return the value under the field's own name or its best alias."""
    own = normalise_label(field.replace("_", " "))
    for label in (own, *ALIASES.get(field, ())):
        if label in values:
            return values[label]
    return None


def normalise_label(label: str) -> str:
    """Normalise a label to lower case, letters and digits only, without possessive: "**Patient's age
    (years)**" is "patient age"."""
    label = re.sub(r"\([^)]*\)", " ", label)
    label = re.sub(r"['\u2019]s\b", "", label)
    return " ".join(re.findall(r"[^\W_]+", label.lower()))


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    waiting = ""
    for line in lines:
        for column in _split_columns(_BULLET.sub("", line).strip()):
            match = _PAIR.match(column.strip("| ").strip())
            if match is None:
                if waiting and column:
                    yield waiting, clean_value(column)
                    waiting = ""
                continue
            label, value = normalise_label(match["label"]), clean_value(match["value"])
            if value:
                yield label, value
            waiting = "" if value else label


def _split_columns(line: str) -> list[str]:
    """Split a line with several "label: value" pairs; a line with one stays whole."""
    columns = _COLUMNS.split(line)
    return columns if len(columns) > 1 and all(":" in column for column in columns) else [line]


def clean_value(value: str) -> str:
    """Return the value without surrounding markup, quotes and separators."""
    return value.strip().strip('*_`|"\u201c\u201d\u201e').strip().rstrip(",;")
