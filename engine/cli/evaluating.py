"""Compare extracted records with what is true, field by field."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

__all__ = ["FATES", "Evaluation", "FieldScore", "by_key", "evaluate"]

Row = Mapping[str, object]

FATES = ("exact", "normalised", "wrong", "missing", "invented", "absent")
"""What may be found of a value: the counts of a `FieldScore`."""

_MAX_EXAMPLES = 5  # documents that are named for each field


@dataclass(slots=True)
class FieldScore:
    """How one field of the records compares.

    Attributes:
        exact: the same value.
        normalised: the same but for case, white space, width, accents and punctuation.
        wrong: another value.
        missing: true, and not extracted.
        invented: extracted, and not true.
        absent: neither; right too.
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
        """Share of comparisons that are right; 1 when there are none."""
        return self.right / self.total if self.total else 1.0


@dataclass(slots=True)
class Evaluation:
    """Records against the truth. `lost` are keys without a record, `unknown` records without a truth."""

    fields: dict[str, FieldScore]
    records: int
    lost: list[str]
    unknown: list[str]

    def to_json(self) -> dict[str, object]:
        """Return it for machines."""
        fields = {name: {**asdict(one), "share": round(one.share, 4)} for name, one in self.fields.items()}
        return {"records": self.records, "lost": self.lost, "unknown": self.unknown, "fields": fields}


def by_key(rows: Sequence[Row], key: str) -> dict[str, Row]:
    """Rows by the text of one of their fields; later ones win. Rows without it are left out."""
    return {str(row[key]): row for row in rows if row.get(key) not in (None, "")}


def evaluate(rows: Mapping[str, Row], truth: Mapping[str, Row], key: str) -> Evaluation:
    """Compare rows with the truth under the same key, or under one whose last steps of a path are the same.

    Compared are the fields that the truth has, but for the key itself.
    """
    names = list(dict.fromkeys(name for one in truth.values() for name in one if name != key))
    scores = {name: FieldScore() for name in names}
    by_ending: dict[str, str] = {}
    for row_key in rows:
        steps = row_key.split("/")
        for start in range(1, len(steps)):
            by_ending.setdefault("/".join(steps[start:]), row_key)
    matched = {
        name: found for name in truth if (found := name if name in rows else by_ending.get(name)) is not None
    }
    for true_key, row_key in matched.items():
        for name in names:
            _compare(scores[name], rows[row_key].get(name), truth[true_key].get(name), true_key)
    return Evaluation(
        scores,
        len(matched),
        lost=[name for name in truth if name not in matched],
        unknown=[name for name in rows if name not in set(matched.values())],
    )


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
        return f"{value:g}" if float(value).is_integer() and abs(value) < 1e6 else str(value)
    folded = unicodedata.normalize("NFKD", str(value)).casefold()
    return re.sub(r"[^\w]+", " ", "".join(one for one in folded if not unicodedata.combining(one))).strip()
