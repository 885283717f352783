"""Fold texts: ignore case, width, accents and white space, and map positions back to the original.

Also numbers and dates as they are written in texts.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from itertools import accumulate, islice
from typing import Final

_QUOTES: Final = dict.fromkeys("\u2018\u2019", "'") | dict.fromkeys("\u201c\u201d", '"')
_DASHES: Final = dict.fromkeys("\u2010\u2011\u2013\u2014\u2212", "-")
_TATWEEL: Final = "\u0640"  # stretches an Arabic word
_LETTERS: Final = {
    "\u0131": "i",  # dotless i
    "\u06cc": "\u064a",  # Persian forms of Arabic letters
    "\u0649": "\u064a",
    "\u06a9": "\u0643",
}
_REPLACED: Final = _QUOTES | _DASHES | _LETTERS
_PLAIN: Final = _REPLACED | {_TATWEEL: ""}
_NUMBER_MARKS: Final = {
    "\u2212": "-",
    "\uff0d": "-",
    "\uff0b": "+",
    "\u066b": ".",
    "\uff0e": ".",
    "\u066c": ",",
    "\uff0c": ",",
    "\u2019": "'",
    "\u2009": " ",
}
_MONTHS: Final = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH: Final = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DATE: Final = re.compile(
    r"(?<!\d)(?:(?P<y1>\d{4})[-/.年 ](?P<m1>\d{1,2})[-/.月 ](?P<d1>\d{1,2})日?"
    r"|(?P<a>\d{1,2})[-/. ](?P<b>\d{1,2})[-/. ](?P<y2>\d{4})"
    rf"|(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?[ -](?:of )?(?P<m3>{_MONTH})[ ,-]{{1,8}}(?P<y3>\d{{4}})"
    rf"|(?P<m4>{_MONTH}) (?P<d4>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y4>\d{{4}}))(?!\d)",
    re.IGNORECASE,
)
_ISO: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?\Z")
_NUMBER: Final = re.compile(r"(?<![\w.,])[-+]?\d[\d.,'\u00a0\u202f ]*\d|(?<![\w.,])[-+]?\d|(?<=[^\W\d_])\d+")
SCRIPTS_WITHOUT_SPACES: Final = "฀-໿က-႟ក-៿぀-ヿ㐀-鿿"  # Thai, Lao, Burmese, Khmer, kana, Chinese
_UNSPACED: Final = re.compile(f"[{SCRIPTS_WITHOUT_SPACES}]")
_DIGIT: Final = re.compile(r"\d")
_DIGITS: Final = re.compile(r"\d{4,}")
_YEAR_DIGITS: Final = 4
_BEFORE_YEAR: Final = 48  # characters of a date, at most
_AFTER_YEAR: Final = 16


class Folded:
    """A folded text, with a mapping back to the original.

    It is folded in chunks by functions written in C; the position of a character is found by folding its
    chunk again, one character at a time. Both fold alike, since the order of marks that stay is checked.

    Attributes:
        text: folded text; a run of white space is one space, and it begins without one.
    """

    def __init__(self, original: str) -> None:
        self._original = original
        pieces: list[str] = []
        self._offsets: list[int] = []
        offset, spaced, plain = 0, True, _with_plain_characters(original)
        for start in range(0, len(original), _CHUNK):
            self._offsets.append(offset)
            piece = _folded_chunk(plain[start : start + _CHUNK])
            if spaced and piece.startswith(" "):
                piece = piece[1:]
            if piece:
                spaced = piece[-1] == " "
                pieces.append(piece)
                offset += len(piece)
        self.text = "".join(pieces)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original for a span of the folded text, including trailing accents."""
        place, last = self._places(start, end - 1)
        original, stop = self._original, last + 1
        while stop < len(original) and not _FOLDS[ord(original[stop])]:
            stop += 1  # a combining accent belongs to its letter
        return place, stop

    def _places(self, start: int, last: int) -> tuple[int, int]:
        """Return the original offsets of two of the folded text's characters."""
        chunk = bisect_right(self._offsets, start) - 1
        before, first = self._offsets[chunk], chunk * _CHUNK
        start, last = start - before, last - before
        folds = list(map(_FOLDS.__getitem__, map(ord, self._original[first : first + last + 1])))
        ends = list(accumulate(map(len, folds)))
        if last < ends[-1] and "".join(folds) == self.text[before : before + ends[-1]]:
            return first + bisect_right(ends, start), first + bisect_right(ends, last)
        # white space is shorter than in the original, or characters were removed
        places = list(islice(self._origins(chunk), last + 1))
        return places[start], places[last]

    def _origins(self, chunk: int) -> Iterator[int]:
        """Yield the original offsets of the folded text's characters, starting with a chunk."""
        offset = self._offsets[chunk]
        spaced = offset == 0 or self.text[offset - 1] == " "
        for place in range(chunk * _CHUNK, len(self._original)):
            for character in _FOLDS[ord(self._original[place])]:
                if character != " " or not spaced:
                    yield place
                spaced = character == " "


class _Folds(dict[int, str]):
    """Folded forms by code point, as a table for `str.translate`."""

    def __missing__(self, code: int) -> str:
        folded = _fold(chr(code))
        if len(self) < _MAX_FOLDS:
            self[code] = folded
        return folded


_CHUNK: Final = 256  # characters
_MAX_FOLDS: Final = 20_000
_FOLDS: Final = _Folds()
_RUN: Final = re.compile(" {2,}")
_REMOVED: Final = frozenset({"Mn", "Cf"})  # categories
_LAST_OF_TABLE: Final = "\uffff"
_ORDERED: Final = "\u0345\u1715\u1734\u1b44\u1baa\u1bf2\u1bf3\u302e\u302f\ua953\ua9c0"
"""Marks that stay, or become letters: a normalisation may put them in another order."""


def folded(text: str) -> str:
    """Fold a text, without spaces at its ends."""
    return Folded(text).text.strip(" ")


def _with_plain_characters(text: str) -> str:
    """Replace characters that fold to one plain one, one for one."""
    if not text.isascii():
        for character, plain in _REPLACED.items():
            text = text.replace(character, plain)
    return text


def _folded_chunk(chunk: str) -> str:
    """Fold a chunk with plain characters; each run of white space becomes one space, also at its ends."""
    if chunk.isascii():
        return _with_single_spaces(chunk.lower())
    whole = unicodedata.normalize("NFKD", chunk.replace(_TATWEEL, ""))
    while mark := _marks().search(whole):
        if mark[0] in _ORDERED or mark[0] > _LAST_OF_TABLE:
            return _RUN.sub(" ", chunk.translate(_FOLDS))
        whole = whole.replace(mark[0], "")
    return _with_single_spaces(whole.casefold())


@cache
def _marks() -> re.Pattern[str]:
    """Return the pattern of characters to remove, of those whose order matters, and of the rare planes.

    `re` has a table of the first plane, and would compare other characters one by one.
    """
    plane = map(chr, range(ord(_LAST_OF_TABLE) + 1))
    removed = "".join(one for one in plane if unicodedata.category(one) in _REMOVED)
    return re.compile(f"[{removed}{_ORDERED}{chr(ord(_LAST_OF_TABLE) + 1)}-\U0010ffff]")


def _with_single_spaces(text: str) -> str:
    inside = " ".join(text.split())
    if not inside:
        return " " * bool(text)
    return f"{' ' * text[0].isspace()}{inside}{' ' * text[-1].isspace()}"


def _fold(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    whole = unicodedata.normalize("NFKD", character).casefold()
    bare = "".join(one for one in whole if unicodedata.category(one) not in _REMOVED)
    return " " if (bare or whole).isspace() else bare


def is_unspaced(text: str) -> bool:
    """Return whether a text has characters of scripts without spaces between words."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def as_number(text: str) -> str | None:
    """Return a number in canonical form; None for any other text."""
    bare = re.sub(r"['\u00a0\u202f ]", "", _with_plain_marks(text))
    if not re.fullmatch(r"[-+]?\d[\d.,]*", bare):
        return None
    marks = [one for one in bare if one in ".,"]
    if len(set(marks)) == 2:  # the last one is the decimal point
        bare = bare.replace(marks[0], "").replace(marks[-1], ".")
    elif len(marks) > 1 or _has_thousands(bare):
        bare = bare.replace(marks[0], "")
    else:
        bare = bare.replace(",", ".")
    try:
        number = Decimal(bare)
    except InvalidOperation:
        return None
    return format(number.normalize(), "f")


def _has_thousands(number: str) -> bool:
    """Return whether the only mark of a number is a comma before three digits, and not after a zero."""
    whole, _, rest = number.partition(",")
    return len(rest) == len("000") and Decimal(whole) != 0


def numbers_in(text: str) -> dict[str, tuple[int, int]]:
    """Return the numbers of a text, each with its first span."""
    found: dict[str, tuple[int, int]] = {}
    for match in _numbers(_with_plain_marks(text)):
        number = as_number(match[0])
        if number is not None:
            found.setdefault(number, match.span())
    return found


def _with_plain_marks(text: str) -> str:
    """Replace the signs and separators of numbers by those of ASCII, one for one."""
    if not text.isascii():
        for mark, plain in _NUMBER_MARKS.items():
            text = text.replace(mark, plain)
    return text


def _numbers(text: str) -> Iterator[re.Match[str]]:
    """Do what `_NUMBER.finditer` does, ten times as fast for texts without numbers."""
    at = 0
    while digit := _DIGIT.search(text, at):
        start = digit.start()
        signed = start > at and text[start - 1] in "+-"
        match = (_NUMBER.match(text, start - 1) if signed else None) or _NUMBER.match(text, start)
        if match:
            yield match
        at = match.end() if match else start + 1


def as_date(text: str) -> str | None:
    """Return the date of an ISO date or timestamp; None for any other text."""
    match = _ISO.match(text)
    return "-".join(match.groups()) if match else None


def dates_in(text: str) -> dict[str, tuple[int, int]]:
    """Return the dates of a text in ISO form, each with its first span; 3/4/2026 counts as two dates."""
    found: dict[str, tuple[int, int]] = {}
    for match in _dates(text):
        for year, month, day in _readings(match):
            try:
                found.setdefault(date(year, month, day).isoformat(), match.span())
            except ValueError:
                continue
    return found


def _dates(text: str) -> Iterator[re.Match[str]]:
    """Do what `_DATE.finditer` does, searching only around possible years."""
    at = 0
    while year := _DIGITS.search(text, at):
        if year.end() - year.start() > _YEAR_DIGITS:
            at = year.end()
            continue
        start = max(at, year.start() - _BEFORE_YEAR)
        end = min(len(text), year.end() + _AFTER_YEAR)
        match = _DATE.search(text, start, end)
        if match and match.end() == end and text[end : end + 1].isdigit():
            match = None  # the date continues beyond what was searched
        if match:
            yield match
        at = match.end() if match else year.end()


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
