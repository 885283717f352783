"""Merge the answers about the parts of a document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum

__all__ = ["Merge", "merged"]


class Merge(StrEnum):
    """How to merge the values from several parts."""

    FIRST = "first"
    LONGEST = "longest"
    ALL = "all"
    VOTE = "vote"


def merged(answers: Sequence[Mapping[str, object]], rules: Mapping[str, Merge]) -> dict[str, object]:
    """Merge the answers about the parts, in order, into one.

    By default lists are concatenated (a single value counts as an item), and the first of other values is
    used. An item that several parts state is used once, since parts overlap.
    """
    names = dict.fromkeys(name for answer in answers for name in answer)
    return {name: _one([answer.get(name) for answer in answers], rules.get(name)) for name in names}


def _one(values: Sequence[object], rule: Merge | None) -> object:
    stated = [value for value in values if value is not None and value != []]
    if not stated:
        return next((value for value in values if value is not None), None)
    if rule is Merge.ALL or (rule is None and any(isinstance(value, list) for value in stated)):
        if all(isinstance(value, str) for value in stated):
            return "\n".join(dict.fromkeys(map(str, stated)))
        return _added_up([value if isinstance(value, list) else [value] for value in stated])
    if rule is Merge.LONGEST:
        return max(stated, key=lambda value: len(_written(value)))
    if rule is Merge.VOTE:
        winner = Counter(map(_written, stated)).most_common(1)[0][0]
        return next(value for value in stated if _written(value) == winner)
    return stated[0]


def _added_up(lists: Sequence[Sequence[object]]) -> list[object]:
    """Concatenate lists. Items repeated across parts count once, those repeated within a part as often."""
    items: list[object] = []
    kept: Counter[str] = Counter()
    for one in lists:
        seen: Counter[str] = Counter()
        for item in one:
            text = _written(item)
            seen[text] += 1
            if seen[text] > kept[text]:
                kept[text] += 1
                items.append(item)
    return items


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
