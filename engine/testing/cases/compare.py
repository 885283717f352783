"""Differences between the expected and the actual output, by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import orjson

LONGEST = 200


def shown(value: object) -> str:
    """Return a value as JSON, cut when it is long."""
    text = orjson.dumps(value, default=str).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def differences(place: str, expected: Any, found: Any, *, subset: bool = False) -> Iterator[str]:
    """Yield a line for each value that differs, under its path."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in [name for name in expected if name not in found]:
            yield f"{place}.{name}: missing, expected {shown(expected[name])}"
        if not subset:
            for name in [name for name in found if name not in expected]:
                yield f"{place}.{name}: not expected, found {shown(found[name])}"
        for name in expected:
            if name in found:
                yield from differences(f"{place}.{name}", expected[name], found[name], subset=subset)
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for at, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(f"{place}[{at}]", one, other, subset=subset)
    elif (type(expected) is not type(found) and not _numbers(expected, found)) or expected != found:
        yield f"{place}: expected {shown(expected)}, found {shown(found)}"


def _text(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS, default=str)


def _numbers(one: object, other: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))


def record_differences(
    place: str,
    expected: Sequence[Any],
    found: Sequence[Any],
    *,
    subset: bool = False,
    unordered: bool = False,
) -> Iterator[str]:
    """Yield the differences between two lists of records, numbered from 1."""

    def same(one: Any, other: Any) -> bool:
        return next(differences("", one, other, subset=subset), None) is None

    left, right = list(enumerate(expected, 1)), list(enumerate(found, 1))
    if unordered or subset:
        if unordered:
            for item in list(left):
                match = next((one for one in right if same(item[1], one[1])), None)
                if match is not None:
                    left.remove(item)
                    right.remove(match)
        blocks = [(left, right)]
    else:
        texts = [[_text(value) for _, value in side] for side in (left, right)]
        opcodes = SequenceMatcher(None, texts[0], texts[1], autojunk=False).get_opcodes()
        blocks = [(left[a:b], right[c:d]) for tag, a, b, c, d in opcodes if tag != "equal"]
    for some, others in blocks:
        for (number, one), (_, other) in zip(some, others, strict=False):
            yield from differences(f"{place}, record {number}", one, other, subset=subset)
        for number, one in some[len(others) :]:
            yield f"{place}: record {number} is missing: {shown(one)}"
        for number, other in others[len(some) :]:
            yield f"{place}: record {number} was not expected: {shown(other)}"
