"""Read JSON as models write it, without losing a digit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final

# An unclosed string matches up to the end: trying each quote would be quadratic
_STRING: Final = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*+(?P<closed>"?))', re.DOTALL)
_SLIP: Final = re.compile(
    r"(?P<comma>,(?=\s*[}\]]))|(?P<comment>//[^\n]*|/\*.*?\*/)"
    r"|(?P<word>\b(?:None|True|False|undefined)\b)",
    re.DOTALL,
)
_QUOTES: Final = "'`\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb"
_NESTED: Final = "{0}(?:[^{2}]++|{0}[^{2}]*+[{1}]){{0,50}}+[{1}]"
_QUOTED: Final = re.compile(
    r"(?P<quoted>'(?:[^'\\\n]|\\.)*+'|`[^`\n]*+`|\u2018[^\u2018\u2019]*+\u2019|"
    + "|".join(
        _NESTED.format(*marks)
        for marks in (
            ("\u201c", "\u201d", "\u201c\u201d\u201e"),
            ("\u201e", "\u201c\u201d", "\u201c\u201d\u201e"),
            ("\u00ab", "\u00bb", "\u00ab\u00bb"),
        )
    )
    + "|[\u201c\u201d\u201e][^\u201c\u201d\u201e]*+[\u201c\u201d])",
    re.DOTALL,
)
_TEXT: Final = re.compile(f"{_STRING.pattern}|{_QUOTED.pattern}", re.DOTALL)
_TEXT_OR_SLIP: Final = re.compile(f"{_TEXT.pattern}|{_SLIP.pattern}", re.DOTALL)
_ESCAPE: Final = re.compile(r'\\.|"', re.DOTALL)
# what a repair may add, remove or exchange
_SYNTAX: Final = frozenset('{}[],:;=_\\"\ufeff\u200b\u200e\u200f' + _QUOTES)
_WORDS: Final = {"None": "null", "True": "true", "False": "false", "undefined": "null"}


MAX_DEPTH: Final = 200
"""Maximum nesting of objects and lists; later readers and writers have their own limits."""


class NumberLiteral(float):
    """A decimal number that keeps its text: a float would lose digits of a price."""

    literal: str

    def __new__(cls, literal: str) -> NumberLiteral:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


def parse(text: str, *, strict: bool = True) -> Any:
    """Parse a JSON text. Integers are exact, other numbers are `NumberLiteral`; NaN is null.

    Args:
        strict: reject line breaks inside texts.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = json.loads(text, parse_float=NumberLiteral, parse_constant=lambda _: None, strict=strict)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if text.count("{") + text.count("[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    return value


def _depth(value: object) -> int:
    """Return the nesting depth of objects and lists."""
    depth, layer = 0, [value]
    while layer := [one for one in layer if isinstance(one, Mapping | list) and one]:
        depth += 1
        layer = [inner for one in layer for inner in (one.values() if isinstance(one, Mapping) else one)]
    return depth


def written(value: object) -> str:
    """Write a value as ASCII JSON, with all digits of a `NumberLiteral`."""
    if isinstance(value, str):
        return _quoted(value)  # `json.dumps` takes six times as long for a short text
    if isinstance(value, NumberLiteral):
        return value.literal
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_quoted(str(name))}:{written(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def repaired(text: str) -> Any | None:
    """Parse a JSON text with mistakes: extra commas, other quotes, Python's literals, comments.

    None if it is cut off, is not JSON, or if a repair would lose a letter, digit, sign or unit.
    """
    if not text.lstrip().startswith(("{", "[")) or not _is_closed(text):
        return None
    tidy = _TEXT_OR_SLIP.sub(_tidied, text)
    try:
        return parse(tidy, strict=False)
    except ValueError:
        pass
    if any(quote in _STRING.sub("", text) for quote in _QUOTES):
        tidy = text  # an apostrophe may have ended a text, and what looks like a comment may be part of one
    # few replies need it
    from json_repair import repair_json

    try:
        mended = repair_json(tidy, skip_json_loads=True, ensure_ascii=False)
        value = parse(mended) if isinstance(mended, str) and mended else None
    except (ValueError, RecursionError):
        return None
    whole = isinstance(value, dict | list) and _kept(json.dumps(value, ensure_ascii=False)) == _kept(tidy)
    return value if whole else None


def _tidied(match: re.Match[str]) -> str:
    if match.lastgroup == "quoted":
        return f'"{_ESCAPE.sub(_escaped, match[0][1:-1])}"'
    if match.lastgroup != "string":
        return _WORDS.get(match[0], "")
    if not match["closed"]:
        return '"' + _SLIP.sub(_tidied, match[0][1:])
    try:  # in plain letters, since `\\/` or `\\u00e9` would not be found in what a repair returns
        return json.dumps(json.loads(match[0], strict=False), ensure_ascii=False)
    except ValueError:
        return match[0]


def _escaped(match: re.Match[str]) -> str:
    return {"\\'": "'", '"': '\\"'}.get(match[0], match[0])


def _kept(text: str) -> str:
    return "".join(one for one in text if one not in _SYNTAX and not one.isspace())


def _is_closed(text: str) -> bool:
    """Return whether the last character closes the first bracket, ignoring brackets in quotes."""
    text = text.strip()
    if not text.endswith("}" if text.startswith("{") else "]"):
        return False
    bare = _TEXT.sub(
        lambda match: match[0] if match.lastgroup == "string" and not match["closed"] else "", text
    )
    return all(bare.count(opening) == bare.count(closing) for opening, closing in ("{}", "[]"))
