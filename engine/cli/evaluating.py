"""Compare extracted records with the correct ones, field by field."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

Row = Mapping[str, object]

FATES = ("exact", "normalised", "wrong", "missing", "invented", "absent")
"""Possible results for a value: the counts of a `FieldScore`."""

_MEANT = frozenset({0, 7, 8, 9})  # classes of marks that make a different letter: vowel signs, nukta, dakuten
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?", re.ASCII)
_MARKED = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:\.\d{3})*,\d+|\d+,\d+)", re.ASCII)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?", re.ASCII)
_HYPHEN = re.compile(r"(?<=\w)[+-]+(?=\w)|(?<!\S)[+-]+(?!\S)")
_MAX_EXAMPLES = 5  # examples named for each field


@dataclass(slots=True)
class FieldScore:
    """How one field of the records compares.

    Attributes:
        exact: the same value.
        normalised: equal except for case, white space, width, accents and punctuation, or the same number or
            ISO date in another spelling. A sign is not punctuation: A+ differs from A-.
        wrong: another value.
        missing: in the truth, but not extracted.
        invented: extracted, but not in the truth.
        absent: in neither, which counts as right.
        examples: keys of some documents that are wrong, missing or invented.
    """

    exact: int = 0
    normalised: int = 0
    wrong: int = 0
    missing: int = 0
    invented: int = 0
    absent: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def right(self) -> int:
        """Values that are exact, normalised, or rightly absent."""
        return self.exact + self.normalised + self.absent

    @property
    def total(self) -> int:
        """All comparisons."""
        return self.right + self.wrong + self.missing + self.invented

    @property
    def share(self) -> float:
        """Share of comparisons that are right; 0 when there are none."""
        return self.right / self.total if self.total else 0.0


@dataclass(slots=True)
class Evaluation:
    """Records against the truth. `lost` are keys without a record, `unknown` records without a truth."""

    fields: dict[str, FieldScore]
    records: int
    lost: list[str]
    unknown: list[str]

    def to_json(self) -> dict[str, object]:
        """Return the evaluation as JSON-safe values."""
        fields = {name: {**asdict(one), "share": round(one.share, 4)} for name, one in self.fields.items()}
        return {"records": self.records, "lost": self.lost, "unknown": self.unknown, "fields": fields}


def evaluate(rows: Mapping[str, Row], truth: Mapping[str, Row], key: str) -> Evaluation:
    """Compare rows with the truth under the same key, or under one whose last steps of a path are the same.

    Only fields of the truth are compared, and the key is not.
    """
    names = list(dict.fromkeys(name for one in truth.values() for name in one if name != key))
    scores = {name: FieldScore() for name in names}
    matched = _matched(rows, truth)
    used = set(matched.values())
    for true_key, row_key in matched.items():
        for name in names:
            _compare(scores[name], rows[row_key].get(name), truth[true_key].get(name), true_key)
    return Evaluation(
        scores,
        len(matched),
        lost=[name for name in truth if name not in matched],
        unknown=[name for name in rows if name not in used],
    )


def _matched(rows: Mapping[str, Row], truth: Mapping[str, Row]) -> dict[str, str]:
    """Map each key of the truth to the key of its row, if any; no row is used twice."""
    matched = {name: name for name in truth if name in rows}
    by_ending: dict[str, list[str]] = {}
    for row_key in rows.keys() - matched.keys():
        steps = row_key.split("/")
        for start in range(1, len(steps)):
            by_ending.setdefault("/".join(steps[start:]), []).append(row_key)
    taken: set[str] = set()
    for name in sorted(truth.keys() - matched.keys(), key=len, reverse=True):
        found = [one for one in by_ending.get(name, ()) if one not in taken]
        if len(found) == 1:  # several are ambiguous
            matched[name] = found[0]
            taken.add(found[0])
    return {name: matched[name] for name in truth if name in matched}


def _compare(score: FieldScore, found: object, true: object, key: str) -> None:
    if _is_nothing(found) or _is_nothing(true):
        if _is_nothing(found) and _is_nothing(true):
            score.absent += 1
            return
        if _is_nothing(found):
            score.missing += 1
        else:
            score.invented += 1
    elif found == true and isinstance(found, bool) == isinstance(true, bool):
        score.exact += 1
        return
    elif _normalised(found) == _normalised(true):
        score.normalised += 1
        return
    else:
        score.wrong += 1
    if len(score.examples) < _MAX_EXAMPLES:
        score.examples.append(key)


def _is_nothing(value: object) -> bool:
    return value is None or value in ("", [], {})


def _normalised(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _normalised(one) for name, one in value.items() if not _is_nothing(one)}
    if isinstance(value, list):
        return [_normalised(one) for one in value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        value = _spelled(value)
    text = str(value).strip().replace("\N{MINUS SIGN}", "-")
    if _MARKED.fullmatch(text):
        text = _without_marks(text)
    if _NUMBER.fullmatch(text):
        text = text.removeprefix("+")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if _MOMENT.fullmatch(text) and (moment := _as_moment(text)):
        return moment
    folded = "".join(_plain(one) for one in unicodedata.normalize("NFKD", text).casefold())
    return " ".join(_HYPHEN.sub(" ", folded).split()) or text


def _without_marks(text: str) -> str:
    """Return a number without separators of thousands, with a decimal point: of both marks, the last is that.

    A comma before exactly three digits separates thousands, except after a zero.
    """
    whole, _, rest = text.rpartition(",")
    if "." in rest or (len(rest) == len("000") and "." not in whole and whole.strip("+-0")):
        return text.replace(",", "")
    return f"{whole.replace('.', '')}.{rest}"


def _spelled(number: int | float) -> str:
    try:
        return f"{Decimal(repr(number)):f}"
    except ValueError:  # it has more digits than Python writes
        return hex(int(number))


def _plain(character: str) -> str:
    """Keep letters, digits, signs and vowel signs; drop accents; replace anything else by a space."""
    if character.isalnum() or character in "+-":
        return character
    if unicodedata.category(character)[0] == "M":
        return character if unicodedata.combining(character) in _MEANT else ""
    return " "


def _as_moment(text: str) -> str:
    """Normalise an ISO date or moment, in UTC if it has an offset; "" for an impossible date."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return ""
    day, _, rest = moment.isoformat(" ").partition(" ")
    return day.replace("-", " ") if rest == "00:00:00" else f"{day.replace('-', ' ')} {rest}"
