"""Find the span of a document that supports an extracted value, in code points.

A value is searched as written, then folded (case, width, accents, white space, line breaks in scripts
without spaces, and words divided at the end of a line), then as a number or date, then by most of its words.
Each search takes time linear in the document. Nothing depends on a language, except for the English names of
months.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import compress
from typing import Final

from connectors.llm.folding import (
    Folded,
    as_date,
    as_number,
    dates_in,
    folded,
    is_unspaced,
    numbers_in,
    span_of_words,
    words_in,
)

__all__ = ["Grounder", "Span", "spans_of", "ungrounded_in"]

Span = tuple[int, int]
"""Start and end in code points; the end is exclusive."""

_SPACE: Final = re.compile(" ")  # in a script without spaces, a line may end anywhere
_AFTER_HYPHEN: Final = re.compile(r"(?<=\w-) (?=\w)")  # a double name at the end of a line
_DIVISION: Final = re.compile(r"(?<=\w)- (?=\w)")  # a word that is divided there
_COVERAGE: Final = 0.75  # share of a value's words that a fuzzy span must contain
_FEWEST_WORDS: Final = 3  # of a value that is looked for by its words
_MAX_VALUE: Final = 2_000  # characters of a value; longer ones are only searched as written


def spans_of(text: str, values: Mapping[str, object]) -> dict[str, Span]:
    """Return the spans of a record's values by path (`name`, `items[0].price`), where found.

    Null, true and false have no span. Equal values get successive occurrences.
    """
    grounder = Grounder(text)
    return {path: span for path, value in _leaves("", values) if (span := grounder.find(value)) is not None}


def ungrounded_in(
    required: Collection[str], values: Mapping[str, object], spans: Mapping[str, Span]
) -> list[str]:
    """Return the paths of values in the required fields that have no span."""
    stated = {name: value for name, value in values.items() if name in required}
    return [path for path, _ in _leaves("", stated) if path not in spans]


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(f"{path}.{name}" if path else str(name), one)
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _leaves(f"{path}[{number}]", one)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield path, value


class Grounder:
    """Finds values in one document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._next: dict[str, int] = {}

    def find(self, value: object) -> Span | None:
        """Return the span that supports a text or number, or None."""
        wanted = str(value).strip()
        if not wanted:
            return None
        span = _occurrence(self._text, wanted, self._next.get(wanted, 0))
        if span is None and wanted in self._next:  # the value occurs once, but was asked for again
            span = _occurrence(self._text, wanted, 0)
        if span is None and len(wanted) <= _MAX_VALUE:
            span = self._folded_span(wanted) or self._meant(wanted) or self._by_words(wanted)
        if span is not None:
            self._next[wanted] = span[1]
        return span

    @cached_property
    def _folded(self) -> Folded:
        return Folded(self._text)

    @cached_property
    def _words(self) -> list[str]:
        return words_in(self._folded.text)

    @cached_property
    def _numbers(self) -> dict[str, Span]:
        return numbers_in(self._text)

    @cached_property
    def _dates(self) -> dict[str, Span]:
        return dates_in(self._text)

    def _folded_span(self, wanted: str) -> Span | None:
        needle = folded(wanted)
        if not needle:
            return None
        start = self._folded.offset(self._next.get(wanted, 0))
        found = _occurrence(self._folded.text, needle, start) or _occurrence(self._folded.text, needle, 0)
        if found is None and is_unspaced(needle):
            found = self._unspaced.find(needle.replace(" ", ""), start)
        if found is None and "- " in self._folded.text:
            found = self._rejoined.find(needle, start) or self._undivided.find(needle, start)
        return self._folded.span(*found) if found else None

    @cached_property
    def _unspaced(self) -> _Without:
        return _Without(self._folded.text, _SPACE)

    @cached_property
    def _rejoined(self) -> _Without:
        return _Without(self._folded.text, _AFTER_HYPHEN)

    @cached_property
    def _undivided(self) -> _Without:
        return _Without(self._folded.text, _DIVISION)

    def _meant(self, wanted: str) -> Span | None:
        """Find a number or date that is written differently."""
        number, date = as_number(wanted), as_date(wanted)
        if date is not None and date in self._dates:
            return self._dates[date]
        return self._numbers.get(number) if number is not None else None

    def _by_words(self, wanted: str) -> Span | None:
        """Return the window with the most of the value's words, if it has at least three quarters."""
        value = words_in(folded(wanted))
        words, size = self._words, len(value)
        if not _FEWEST_WORDS <= size <= len(words):
            return None
        left = Counter(value)
        stated = list(compress(enumerate(words), map(left.__contains__, words)))
        if len(stated) < _COVERAGE * size:
            return None
        best = hits = behind = 0
        window = (0, 0)
        for ahead, (place, word) in enumerate(stated):
            start = max(place + 1, size) - size
            while stated[behind][0] < start:
                gone = stated[behind][1]
                left[gone] += 1
                hits -= left[gone] > 0
                behind += 1
            hits += left[word] > 0
            left[word] -= 1
            if hits > best:
                best, window = hits, (stated[behind][0], stated[ahead][0])
        if best < _COVERAGE * size:
            return None
        return self._folded.span(*span_of_words(self._folded.text, *window))


class _Without:
    """A text without the matches of a pattern, which all have one length, to find values across them."""

    def __init__(self, text: str, pattern: re.Pattern[str]) -> None:
        self._text = pattern.sub("", text)
        removed = [match.span() for match in pattern.finditer(text)]
        self._starts = [start for start, _ in removed]
        self._width = removed[0][1] - removed[0][0] if removed else 0
        self._places = [start - number * self._width for number, start in enumerate(self._starts)]

    def find(self, needle: str, start: int) -> Span | None:
        """Return the value's span in the whole text, from `start` on if possible."""
        after = start - self._width * bisect_left(self._starts, start)
        found = _occurrence(self._text, needle, max(after, 0)) or _occurrence(self._text, needle, 0)
        if found is None:
            return None
        first, last = found[0], found[1] - 1
        return self._origin(first), self._origin(last) + 1

    def _origin(self, place: int) -> int:
        return place + self._width * bisect_right(self._places, place)


def _occurrence(text: str, wanted: str, start: int) -> Span | None:
    """Return the first occurrence from `start` on that is not part of a longer word or number."""
    at = text.find(wanted, start)
    while at >= 0:
        end = at + len(wanted)
        if not (_joined(text, at) or _joined(text, end)):
            return at, end
        at = text.find(wanted, at + 1)
    return None


def _joined(text: str, at: int) -> bool:
    """Return whether the characters around a position belong to the same word or number."""
    if not 0 < at < len(text):
        return False
    before, after = text[at - 1], text[at]
    if before.isdigit() and after in ".,":
        return at + 1 < len(text) and text[at + 1].isdigit()
    if after.isdigit() and before in ".,":
        return at > 1 and text[at - 2].isdigit()
    if before.isdigit() != after.isdigit():
        return False  # "5mg", "年5"
    return before.isalnum() and after.isalnum() and not (_unspaced(before) or _unspaced(after))


def _unspaced(character: str) -> bool:
    """Return whether a character belongs to a script without spaces between words."""
    code = ord(character)
    return (
        0x0E00 <= code <= 0x0EFF  # Thai, Lao
        or 0x1000 <= code <= 0x109F  # Burmese
        or 0x1780 <= code <= 0x17FF  # Khmer
        or 0x3040 <= code <= 0x30FF  # kana
        or 0x3400 <= code <= 0x9FFF  # Chinese characters
        or 0xAC00 <= code <= 0xD7A3  # Hangul, whose particles follow without a space
        or 0x20000 <= code <= 0x3FFFF
    )
