"""The fields of a medical memo in running text."""

from __future__ import annotations

import re
from collections.abc import Mapping

# A capital letter is any letter that is not a lower-case Latin one, such as Ö, Ś and É.
_CAPITAL = r"[^\W\d_a-zß-öø-ÿ]"
_WORD = rf"{_CAPITAL}[\w\u2019'-]+"
_NAME = rf"{_WORD}(?: (?:(?:van|von|de|der|da|la) )*(?:{_CAPITAL}\. )?{_WORD}){{1,3}}"
_DOCTOR = rf"Dr\.? {_WORD}(?: {_WORD}){{0,2}}"
_PHONE = r"(?:\+|\()?\d[\d ()./-]{5,}\d(?: ?(?:x|ext\.?) ?\d+)?"
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:tember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)"
)
_DATE = (
    rf"(?:\d{{4}}-\d\d-\d\d|\d{{1,2}}[./]\d{{1,2}}[./]\d{{4}}|{_MONTH}\.? \d{{1,2}}(?:st|nd|rd|th)?,? \d{{4}}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?\.? {_MONTH} \d{{4}})"
)
_PROCEDURE = r"[^\W\d_][\w()\u2019'/-]*(?: [\w()\u2019'/-]+){0,6}?"
_ARTICLE = r"(?:(?:an?|the|his|her|their|your|my) )?"
_PROCEDURE_END = r"(?= (?:on|at|with|under|by|scheduled|next|this)\b|[.,;]|$)"

_PATTERNS: Mapping[str, tuple[re.Pattern[str], ...]] = {
    "patient_name": (
        re.compile(rf"\b[Pp]atient,?(?: is| was| named)?:? (?:(?:Mr|Mrs|Ms|Miss)\.? )?({_NAME})"),
        re.compile(rf"\b[Mm]y name is ({_NAME})"),
        re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Herr|Frau)\.? ({_NAME})"),
        re.compile(rf"(?<!Dr )(?<!Dr\. )\b({_NAME}),? (?:\(|aged? )?\d{{1,3}}\b(?:\)|[- ]years?|,)?"),
    ),
    "patient_age": (
        re.compile(r"\b(\d{1,3})[- ]years?(?:[- ]old| of age)"),
        re.compile(r"\b[Aa]ged? (?:of )?(\d{1,3})\b"),
        re.compile(rf"{_NAME} \((\d{{1,3}})\)"),
        re.compile(rf"{_NAME}, (\d{{1,3}}),"),
    ),
    "phone_number": (
        re.compile(rf"(?i:reach|call|phone|telephone|mobile|contact|number)[^.\d(+]{{0,30}}({_PHONE})"),
    ),
    "scheduled_appointment_date": (
        re.compile(rf"(?i:appointment|scheduled|booked|come in|expected)[^.]{{0,120}}?({_DATE})"),
        re.compile(rf"(?i:visit|see you|see h)[^.]{{0,120}}?({_DATE})"),
    ),
    "dental_procedure_name": (
        re.compile(
            rf"\b(?:scheduled|booked|appointment)[^.;]{{0,60}}? for {_ARTICLE}({_PROCEDURE}){_PROCEDURE_END}"
        ),
        re.compile(rf"\b(?:undergo|needs|requires|receive|have) {_ARTICLE}({_PROCEDURE}){_PROCEDURE_END}"),
        re.compile(rf"\b(?:procedure|treatment) (?:is|will be) {_ARTICLE}({_PROCEDURE}){_PROCEDURE_END}"),
    ),
    "doctor": (
        re.compile(rf"\b(?:under the care of|treated by|performed by|seen by|with) ({_DOCTOR})"),
        re.compile(rf"(?<!Dear )\b({_DOCTOR}) (?:will|is going to|has agreed|performs)\b"),
    ),
}


def find_in_prose(field: str, text: str) -> str | None:
    """Return the field's value in running text, as spelled there; None for an unknown field or no match.

    The six fields of a medical memo are known. Line breaks count as spaces.
    """
    flat = " ".join(text.split())
    for pattern in _PATTERNS.get(field, ()):
        match = pattern.search(flat)
        if match:
            return match[1].strip()
    return None
