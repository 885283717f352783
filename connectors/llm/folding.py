"""Texts without what spelling leaves free: case, width, accents and white space, with the way back.

Also numbers and dates as they are written in texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

__all__ = ["Folded", "Word", "as_date", "as_number", "dates_in", "folded", "numbers_in", "words_in"]

_QUOTES: Final = dict.fromkeys("\u2018\u2019", "'") | dict.fromkeys("\u201c\u201d", '"')
_DASHES: Final = dict.fromkeys("\u2010\u2011\u2013\u2014\u2212", "-")
_PLAIN: Final = _QUOTES | _DASHES
_MONTHS: Final = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH: Final = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DATE: Final = re.compile(
    r"(?<!\d)(?:(?P<y1>\d{4})[-/.年 ](?P<m1>\d{1,2})[-/.月 ](?P<d1>\d{1,2})日?"
    r"|(?P<a>\d{1,2})[-/. ](?P<b>\d{1,2})[-/. ](?P<y2>\d{4})"
    rf"|(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?[ -](?:of )?(?P<m3>{_MONTH})[ ,-]+(?P<y3>\d{{4}})"
    rf"|(?P<m4>{_MONTH}) (?P<d4>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y4>\d{{4}}))(?!\d)",
    re.IGNORECASE,
)
_ISO: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?\Z")
_NUMBER: Final = re.compile(r"(?<![\w.,])[-+]?\d[\d.,'\u00a0\u202f ]*\d|(?<![\w.,])[-+]?\d|(?<=[^\W\d_])\d+")
_WORD: Final = re.compile(r"[぀-ヿ㐀-鿿฀-໿က-႟ក-៿]|\w(?:[^\W぀-ヿ㐀-鿿฀-໿က-႟ក-៿])*")


@dataclass(frozen=True, slots=True)
class Folded:
    """A folded text. For each of its characters, `places` and `ends` are the span that it came from."""

    text: str
    places: Sequence[int]
    ends: Sequence[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original for a span of the folded text, without what was folded away around it."""
        return self.places[start], self.ends[end - 1]


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its place in a folded text."""

    text: str
    start: int
    end: int


def folded(text: str) -> Folded:
    """Fold a text; a run of white space is one space, and none is at the ends."""
    pieces: list[str] = []
    places: list[int] = []
    ends: list[int] = []
    space = True
    for place, character in enumerate(text):
        piece = _fold(character)
        if piece.isspace():
            if not space:
                pieces.append(" ")
                places.append(place)
                ends.append(place + 1)
            space = True
        elif piece:
            pieces.append(piece)
            places.extend([place] * len(piece))
            ends.extend([place + 1] * len(piece))
            space = False
        elif ends and not space:
            ends[-1] = place + 1  # an accent of its own belongs to its letter
    joined = "".join(pieces)
    if joined.endswith(" "):
        joined, places = joined[:-1], places[:-1]
    return Folded(joined, places, ends)


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    whole = unicodedata.normalize("NFKD", character).casefold()
    marks = "".join(one for one in whole if unicodedata.category(one) not in ("Mn", "Cf"))
    return marks if marks or not whole.isspace() else " "


def words_in(text: str) -> list[Word]:
    """The words of a folded text; characters of scripts without spaces are words of their own."""
    return [Word(match[0], match.start(), match.end()) for match in _WORD.finditer(text)]


def as_number(text: str) -> str | None:
    """A number in a form that all its spellings share; None when it is none."""
    bare = re.sub(r"['\u00a0\u202f ]", "", text)
    if not re.fullmatch(r"[-+]?\d[\d.,]*", bare):
        return None
    marks = [one for one in bare if one in ".,"]
    if len(set(marks)) == 2:  # the last one is the decimal point
        bare = bare.replace(marks[0], "").replace(marks[-1], ".")
    elif len(marks) > 1 or (marks and marks[0] == "," and re.search(r",\d{3}\Z", bare)):
        bare = bare.replace(marks[0], "")
    else:
        bare = bare.replace(",", ".")
    try:
        number = Decimal(bare)
    except InvalidOperation:
        return None
    return format(number.normalize(), "f")


def numbers_in(text: str) -> dict[str, tuple[int, int]]:
    """The numbers of a text, each with its first span."""
    found: dict[str, tuple[int, int]] = {}
    for match in _NUMBER.finditer(text):
        number = as_number(match[0])
        if number is not None:
            found.setdefault(number, match.span())
    return found


def as_date(text: str) -> str | None:
    """The date of an ISO date or moment; None when it is neither."""
    match = _ISO.match(text)
    return "-".join(match.groups()) if match else None


def dates_in(text: str) -> dict[str, tuple[int, int]]:
    """The dates of a text in ISO form, each with its first span; 3/4/2026 may be either of two days."""
    found: dict[str, tuple[int, int]] = {}
    for match in _DATE.finditer(text):
        for year, month, day in _readings(match):
            try:
                found.setdefault(date(year, month, day).isoformat(), match.span())
            except ValueError:
                continue
    return found


def _readings(match: re.Match[str]) -> list[tuple[int, int, int]]:
    part = match.groupdict()
    if part["y1"]:
        return [(int(part["y1"]), int(part["m1"]), int(part["d1"]))]
    if part["y2"]:
        year, first, second = int(part["y2"]), int(part["a"]), int(part["b"])
        return [(year, second, first), (year, first, second)]
    kind = "3" if part["y3"] else "4"
    month = _MONTHS.index(part[f"m{kind}"][:3].lower()) + 1
    return [(int(part[f"y{kind}"]), month, int(part[f"d{kind}"]))]
