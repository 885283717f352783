"""Extract the fields of a schema from a document with rules: no model, and no expected answers."""

from __future__ import annotations

import re
from collections.abc import Collection

from engine.sandbox.llm.labels import find_labelled, labelled_values, strip_mail_header
from engine.sandbox.llm.prose import find_in_prose

_AGE = re.compile(r"^(\d{1,3})\s*(?:years?(?:\s+old)?|yrs?\.?|y/?o|jahre)?\s*$", re.IGNORECASE)


def extract_fields(text: str, fields: Collection[str]) -> dict[str, str | None]:
    """Return every field's value as the document spells it, or None if it has none.

    A labelled value wins over running text; an age loses its "years", since the field asks for the number.
    """
    body = strip_mail_header(text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff"))
    values = labelled_values(body)
    found = {field: find_labelled(field, values) or find_in_prose(field, body) for field in fields}
    age = found.get("patient_age")
    if age is not None and (match := _AGE.match(age)):
        found["patient_age"] = match[1]
    return found
