"""One answer of those about the parts of a document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

__all__ = ["Merge", "merged"]


class Merge(StrEnum):
    """How one value comes of those that the parts state."""

    FIRST = "first"
    LONGEST = "longest"
    ALL = "all"
    VOTE = "vote"


def merged(answers: Sequence[Mapping[str, object]], rules: Mapping[str, Merge]) -> dict[str, object]:
    """One answer of those about the parts, in their order.

    Without a rule lists are added up, and of other values the first one stays.
    """
    names = dict.fromkeys(name for answer in answers for name in answer)
    return {name: _one([answer.get(name) for answer in answers], rules.get(name)) for name in names}


def _one(values: Sequence[object], rule: Merge | None) -> object:
    stated = [value for value in values if value is not None and value != []]
    if not stated:
        return next((value for value in values if value is not None), None)
    if rule is Merge.ALL or (rule is None and all(isinstance(value, list) for value in stated)):
        items = [item for value in stated for item in (value if isinstance(value, list) else [value])]
        if all(isinstance(value, str) for value in stated):
            return "\n".join(dict.fromkeys(map(str, items)))
        return list({_written(item): item for item in items}.values())
    if rule is Merge.LONGEST:
        return max(stated, key=lambda value: len(_written(value)))
    if rule is Merge.VOTE:
        winner = Counter(map(_written, stated)).most_common(1)[0][0]
        return next(value for value in stated if _written(value) == winner)
    return stated[0]


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
