"""Find the span of a document that supports an extracted value, in code points.

A value is searched as written, then folded (case, width, accents, white space, line breaks in scripts
without spaces, and words divided at the end of a line), then as a number or date, then by most of its words.
Each search takes time linear in the document. Nothing depends on a language, except for the English names of
months.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import cycle
from math import ceil
from typing import Final

from connectors.llm.folding import (
    Folded,
    as_date,
    as_number,
    dates_in,
    folded,
    is_unspaced,
    numbers_in,
)
from connectors.llm.words import Words

Span = tuple[int, int]
"""Start and end in code points; the end is exclusive."""

_SPACE: Final = re.compile(" ")
_HYPHEN: Final = re.compile(r"- (?=\w)")
_IN_WORD: Final = re.compile(r"\w")
_FURTHER_UNSPACED: Final = re.compile(
    "[가-힣\U00020000-\U0003ffff]"
)  # Hangul: particles follow without a space
_COVERAGE: Final = 0.75  # share of a value's words that a fuzzy span must contain
_FEWEST_WORDS: Final = 3  # of a value that is looked for by its words
_MAX_VALUE: Final = 2_000  # characters of a value; longer ones are only searched as written


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
    """Finds values in one document. Equal values get successive occurrences."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[str, Iterator[Span]] = {}

    def spans(self, values: Mapping[str, object]) -> dict[str, Span]:
        """Return the spans of a record's values by path (`name`, `items[0].price`), where found.

        Null, true and false have no span.
        """
        return {path: span for path, value in _leaves("", values) if (span := self.find(value)) is not None}

    def find(self, value: object) -> Span | None:
        """Return the next span that supports a text or number, or None."""
        wanted = str(value).strip()
        if not wanted:
            return None
        if wanted not in self._found:
            self._found[wanted] = cycle(_first(self._searches(wanted)))
        return next(self._found[wanted], None)

    def _searches(self, wanted: str) -> Iterator[Iterator[Span]]:
        yield _occurrences(self._text, wanted)
        if len(wanted) <= _MAX_VALUE:
            yield (self._folded.span(*one) for one in _first(self._folded_searches(folded(wanted))))
            yield self._meant(wanted)
            yield self._by_words(wanted)

    def _folded_searches(self, needle: str) -> Iterator[Iterator[Span]]:
        """Yield searches that find spans of the folded text."""
        if not needle:
            return
        yield _occurrences(self._folded.text, needle)
        if is_unspaced(needle):
            yield self._unspaced.find(needle.replace(" ", ""))
        if self._divisions:
            yield self._rejoined.find(needle)
            yield self._undivided.find(needle)

    @cached_property
    def _folded(self) -> Folded:
        return Folded(self._text)

    @cached_property
    def _words(self) -> Words:
        return Words(self._folded.text)

    @cached_property
    def _numbers(self) -> dict[str, Span]:
        return numbers_in(self._text)

    @cached_property
    def _dates(self) -> dict[str, Span]:
        return dates_in(self._text)

    @cached_property
    def _unspaced(self) -> _Without:
        # in a script without spaces, a line may end anywhere
        return _Without(self._folded.text, [one.start() for one in _SPACE.finditer(self._folded.text)], 1)

    @cached_property
    def _divisions(self) -> list[int]:
        """Places of hyphens at the end of a line, inside a word or a double name."""
        text = self._folded.text
        starts = (one.start() for one in _HYPHEN.finditer(text))
        return [start for start in starts if start and _IN_WORD.match(text, start - 1)]

    @cached_property
    def _rejoined(self) -> _Without:
        return _Without(self._folded.text, [start + 1 for start in self._divisions], 1)

    @cached_property
    def _undivided(self) -> _Without:
        return _Without(self._folded.text, self._divisions, 2)

    def _meant(self, wanted: str) -> Iterator[Span]:
        """Find a number or date that is written differently."""
        number, date = as_number(wanted), as_date(wanted)
        if date is not None and date in self._dates:
            yield self._dates[date]
        elif number is not None and number in self._numbers:
            yield self._numbers[number]

    def _by_words(self, wanted: str) -> Iterator[Span]:
        """Find the window with the most of the value's words, if it has at least three quarters."""
        value = Words(folded(wanted))
        fewest = ceil(_COVERAGE * len(value))
        if len(value) >= _FEWEST_WORDS and value.count_in(self._folded.text) >= fewest:
            window = self._words.densest(value, fewest)
            if window is not None:
                yield self._folded.span(*window)


class _Without:
    """A text without some parts of one length, to find values across them."""

    def __init__(self, text: str, starts: Sequence[int], width: int) -> None:
        ends = [0, *(start + width for start in starts)]
        self._text = "".join(text[end:start] for end, start in zip(ends, [*starts, len(text)], strict=True))
        self._width = width
        self._places = [start - number * width for number, start in enumerate(starts)]

    def find(self, needle: str) -> Iterator[Span]:
        """Yield the value's spans in the whole text."""
        for start, end in _occurrences(self._text, needle):
            yield self._origin(start), self._origin(end - 1) + 1

    def _origin(self, place: int) -> int:
        return place + self._width * bisect_right(self._places, place)


def _first(searches: Iterator[Iterator[Span]]) -> Iterator[Span]:
    """Yield what the first successful search finds; the later ones are not made."""
    for spans in searches:
        for span in spans:
            yield span
            yield from spans
            return


def _occurrences(text: str, wanted: str) -> Iterator[Span]:
    """Yield the occurrences that are not part of a longer word or number."""
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if _joined(text, at) or _joined(text, end):
            end = at + 1
        else:
            yield at, end
        at = text.find(wanted, end)


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
    if not (before.isalnum() and after.isalnum()):
        return False
    return not (is_unspaced(before + after) or _FURTHER_UNSPACED.search(before + after))
