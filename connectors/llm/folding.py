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
from itertools import islice
from typing import Final

__all__ = [
    "Folded",
    "as_date",
    "as_number",
    "dates_in",
    "folded",
    "is_unspaced",
    "numbers_in",
    "span_of_words",
    "words_in",
]

_QUOTES: Final = dict.fromkeys("\u2018\u2019", "'") | dict.fromkeys("\u201c\u201d", '"')
_DASHES: Final = dict.fromkeys("\u2010\u2011\u2013\u2014\u2212", "-")
_LETTERS: Final = {
    "\u0131": "i",  # dotless i
    "\u0640": "",  # tatweel, which stretches an Arabic word
    "\u06cc": "\u064a",  # Persian forms of Arabic letters
    "\u0649": "\u064a",
    "\u06a9": "\u0643",
}
_PLAIN: Final = _QUOTES | _DASHES | _LETTERS
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
_SCRIPTS: Final = "฀-໿က-႟ក-៿぀-ヿ㐀-鿿"  # Thai, Lao, Burmese, Khmer, kana, Chinese: no spaces between words
_WORD: Final = re.compile(rf"[{_SCRIPTS}]|\w(?:[^\W{_SCRIPTS}])*")
_UNSPACED: Final = re.compile(f"[{_SCRIPTS}]")
_SPACED_WORD: Final = re.compile(r"\w+")
_DIGIT: Final = re.compile(r"\d")
_DIGITS: Final = re.compile(r"\d{4,}")
_YEAR_DIGITS: Final = 4
_BEFORE_YEAR: Final = 48  # characters of a date, at most
_AFTER_YEAR: Final = 16


class Folded:
    """A folded text, with a mapping back to the original.

    It is folded in chunks by functions written in C; the position of a character is found by folding its
    chunk again, one character at a time.

    Attributes:
        text: folded text; a run of white space is one space, and it begins without one.
    """

    def __init__(self, original: str) -> None:
        self._original = original
        pieces: list[str] = []
        self._offsets: list[int] = []
        offset, spaced = 0, True
        for start in range(0, len(original), _CHUNK):
            self._offsets.append(offset)
            piece = _folded_chunk(original[start : start + _CHUNK])
            if spaced and piece.startswith(" "):
                piece = piece[1:]
            if piece:
                spaced = piece[-1] == " "
                pieces.append(piece)
                offset += len(piece)
        self.text = "".join(pieces)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original for a span of the folded text, including trailing accents."""
        original, stop = self._original, self._place(end - 1) + 1
        while stop < len(original) and not _FOLDS[ord(original[stop])]:
            stop += 1  # a combining accent belongs to its letter
        return self._place(start), stop

    def _place(self, offset: int) -> int:
        chunk = bisect_right(self._offsets, offset) - 1
        return next(islice(self._origins(chunk), offset - self._offsets[chunk], None))

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


_CHUNK: Final = 128  # characters
_MAX_FOLDS: Final = 20_000
_FOLDS: Final = _Folds()
_RUN: Final = re.compile(" {2,}")


def folded(text: str) -> str:
    """Fold a text, without spaces at its ends."""
    return Folded(text).text.strip(" ")


def _folded_chunk(chunk: str) -> str:
    """Fold a chunk; each run of white space becomes one space, also at its ends."""
    if chunk.isascii():
        inside = " ".join(chunk.lower().split())
        if not inside:
            return " "
        return f"{' ' * chunk[0].isspace()}{inside}{' ' * chunk[-1].isspace()}"
    return _RUN.sub(" ", chunk.translate(_FOLDS))


def _fold(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    whole = unicodedata.normalize("NFKD", character).casefold()
    bare = "".join(one for one in whole if unicodedata.category(one) not in ("Mn", "Cf"))
    return " " if (bare or whole).isspace() else bare


def is_unspaced(text: str) -> bool:
    """Return whether a text has characters of scripts without spaces between words."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def words_in(text: str) -> list[str]:
    """Return the words of a folded text; each character of a script without spaces is a word."""
    return _words(text).findall(text)


def span_of_words(text: str, first: int, last: int) -> tuple[int, int]:
    """Return the span of a folded text from one word to another, given by number."""
    words = _words(text).finditer(text)
    start = next(islice(words, first, None))
    end = next(islice(words, last - first - 1, None)) if last > first else start
    return start.start(), end.end()


def _words(text: str) -> re.Pattern[str]:
    return _WORD if is_unspaced(text) else _SPACED_WORD


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
