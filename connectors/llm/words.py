"""Divide a folded text into words, and find where most words of a value are together.

Each character of a script without spaces is a word. The time is linear in the text, and functions written in
C do most of the work.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import repeat
from typing import Final

from connectors.llm.folding import SCRIPTS_WITHOUT_SPACES

_OTHER: Final = "\0"
_RUN: Final = re.compile(f"([{SCRIPTS_WITHOUT_SPACES}]+)")
_BETWEEN: Final = re.compile(r"[^\w ]")
_ASCII_BETWEEN: Final = dict.fromkeys((code for code in range(128) if _BETWEEN.match(chr(code))), " ")


class Words:
    """The words of a folded text, in order."""

    def __init__(self, text: str) -> None:
        # text with spaces between words, and runs of characters that are words, in turn
        self._parts = [text] if text.isascii() else _RUN.split(text)
        self._words: list[str] = []
        for number, part in enumerate(self._parts):
            if number % 2:
                self._words += part
            elif part:
                self._parts[number] = spaced = _spaced(part)
                self._words += spaced.split()

    def __len__(self) -> int:
        return len(self._words)

    def count_in(self, text: str) -> int:
        """Return how many of the words a text contains, also as parts of others."""
        return sum(word in text for word in self._words)

    def densest(self, value: Words, fewest: int) -> tuple[int, int] | None:
        """Return the span of the window with the most words of a value; None if it has fewer than `fewest`.

        A window has as many words as the value. The span of the first one of several is returned, from the
        value's first word in it to the last.
        """
        window = _densest_window(self._words, value._words, fewest)
        if window is None:
            return None
        first, last = window
        return self._start(first), self._start(last) + len(self._words[last])

    def _start(self, index: int) -> int:
        """Return where a word starts in the text."""
        start = 0
        for number, part in enumerate(self._parts):
            words = part if number % 2 else part.split(None, index)
            if index < len(words):
                return start + (index if number % 2 else len(part) - len(words[-1]))
            index, start = index - len(words), start + len(part)
        raise IndexError(index)


def _spaced(text: str) -> str:
    """Replace all characters between words by spaces, one for one."""
    return text.translate(_ASCII_BETWEEN) if text.isascii() else _BETWEEN.sub(" ", text)


def _densest_window(words: Sequence[str], value: Sequence[str], fewest: int) -> tuple[int, int] | None:
    """Return the indices of the first and last word of a value in the first densest window."""
    size = len(value)
    if len(words) < size:
        return None
    # one character for each word of the text
    code = {word: chr(number) for number, word in enumerate(dict.fromkeys(value), 1)}
    text = "".join(map(code.get, words, repeat(_OTHER)))
    counts = Counter(map(code.__getitem__, value))
    most = sum(min(text.count(word), count) for word, count in counts.items())
    best, window = fewest - 1, None
    # no window reaches over more than `size - fewest` other words
    for stretch in re.finditer(rf"[^\0]+(?:\0{{1,{size - fewest + 1}}}[^\0]+)*", text):
        if best >= most:
            break
        if len(stretch[0]) > best:
            hits, end = _densest(stretch[0], counts, most)
            if hits > best:
                inside = stretch[0][max(0, end - size) : end].lstrip(_OTHER)
                end += stretch.start()
                best, window = hits, (end - len(inside), end - 1)
    return window


def _densest(text: str, counts: Counter[str], most: int) -> tuple[int, int]:
    """Return the most hits in a window, and the end of the first one; stop at `most`."""
    size = counts.total()
    left: dict[str, float] = {**counts, _OTHER: float("-inf")}
    best = hits = end = 0
    for place, (word, gone) in enumerate(zip(text, _OTHER * size + text, strict=False), 1):
        if word == gone:
            continue  # as in texts that repeat a sentence
        left[gone] += 1
        if left[gone] > 0:
            hits -= 1
        if left[word] > 0:
            hits += 1
            if hits > best:
                best, end = hits, place
                if best == most:
                    break
        left[word] -= 1
    return best, end
