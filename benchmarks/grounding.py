"""Find the spans of values in documents of 12 scripts; `python -m benchmarks.grounding` prints a table.

It compares our search with the alignment of LangExtract 1.7, which runs in another interpreter, since its
dependencies conflict with ours. `ODW_LANGEXTRACT` is the `python` of an environment with it:

    python -m venv lx && lx/bin/pip install langextract==1.7.1
    ODW_LANGEXTRACT=lx/bin/python python -m benchmarks.grounding
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from connectors.llm.grounding import Grounder

__all__ = ["OTHER", "Page", "aligned", "corpus", "grounded", "needs_langextract", "share_right"]

OTHER = ("regex", "unicode")
"""LangExtract's tokenizers: its default, and the one for scripts without spaces."""

_VALUES = 20  # of a document
_WORDS_OF_A_LINE = 12


@dataclass(frozen=True, slots=True)
class Page:
    """A document, and values in a model's spelling, each with its only span."""

    script: str
    text: str
    values: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


def _letters(first: int, last: int) -> list[str]:
    return [chr(code) for code in range(first, last + 1)]


_SCRIPTS = {
    "latin": (_letters(0x61, 0x7A) + list("éèäöüñç"), " "),
    "greek": (_letters(0x3B1, 0x3C1) + _letters(0x3C3, 0x3C9), " "),
    "cyrillic": (_letters(0x430, 0x44F), " "),
    "georgian": (_letters(0x10D0, 0x10F0), " "),
    "hebrew": (_letters(0x5D0, 0x5EA), " "),
    "arabic": (_letters(0x628, 0x63A) + _letters(0x641, 0x648), " "),
    "devanagari": ([a + b for a in _letters(0x915, 0x928) for b in ("", "\u093e", "\u0940")], " "),
    "tamil": ([a + b for a in "கசடதபறயரலவமந" for b in ("", "\u0bbe", "\u0bbf")], " "),
    "hangul": (_letters(0xAC00, 0xAC80), " "),
    "thai": ([a + b for a in _letters(0xE01, 0xE2E) for b in ("", "\u0e30", "\u0e32")], ""),
    "kana": (_letters(0x3042, 0x3093), ""),
    "han": (_letters(0x4E00, 0x4E80), ""),
}


@cache
def corpus(characters: int = 8_000, seed: int = 1) -> list[Page]:
    """Return a document of about this many characters per script."""
    random = Random(seed)
    return [_page(script, letters, gap, characters, random) for script, (letters, gap) in _SCRIPTS.items()]


def _page(script: str, letters: Sequence[str], gap: str, characters: int, random: Random) -> Page:
    words = ["".join(random.choices(letters, k=random.randint(2, 7))) for _ in range(600)]
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    while length < characters:
        starts.append(length)
        breaks = len(starts) % _WORDS_OF_A_LINE == 0
        pieces.append(random.choice(words) + ("\n" if breaks else gap))
        length += len(pieces[-1])
    text = "".join(pieces)
    values: list[str] = []
    spans: list[tuple[int, int]] = []
    for first in sorted(random.sample(range(len(starts) - 4), 4 * _VALUES)):
        start, end = starts[first], starts[first] + len("".join(pieces[first : first + 4]).rstrip())
        found = text[start:end]
        if text.count(found) == 1 and len(values) < _VALUES:
            values.append(found.replace("\n", gap))  # a model writes a value in one line
            spans.append((start, end))
    return Page(script, text, tuple(values), tuple(spans))


def grounded(page: Page) -> list[tuple[int, int] | None]:
    """Return the spans that our search finds."""
    grounder = Grounder(page.text)
    return [grounder.find(value) for value in page.values]


def needs_langextract() -> str | None:
    """Why LangExtract cannot be measured here, or None."""
    return None if os.environ.get("ODW_LANGEXTRACT") else "`ODW_LANGEXTRACT` names no python that has it"


def aligned(pages: Sequence[Page], tokenizer: str) -> list[tuple[list[tuple[int, int] | None], float]]:
    """Return the spans that LangExtract finds in each document, and its processor time in seconds."""
    child = Path(__file__).with_name("langextract_child.py")
    told = json.dumps([tokenizer, [[page.text, page.values] for page in pages]])
    python = os.environ["ODW_LANGEXTRACT"]
    done = subprocess.run([python, str(child)], input=told.encode(), stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout)
    return [([(one[0], one[1]) if one else None for one in spans], cpu) for spans, cpu in found]


def share_right(pages: Sequence[Page], found: Sequence[Sequence[tuple[int, int] | None]]) -> float:
    """Return the share of values with the correct span."""
    right = sum(
        true == span
        for page, spans in zip(pages, found, strict=True)
        for true, span in zip(page.spans, spans, strict=True)
    )
    return right / sum(len(page.values) for page in pages)


def main() -> None:
    """Print, for each script, the share of exact spans and milliseconds for a document."""
    pages = corpus()
    columns = [("ours", _timed(pages))]
    if needs_langextract() is None:
        columns += [(f"LangExtract, {one}", aligned(pages, one)) for one in OTHER]
    else:
        sys.stdout.write(f"without LangExtract: {needs_langextract()}\n")
    names = "".join(f"  {name:>20}" for name, _ in columns)
    sys.stdout.write(f"{'':10}{names}\n")
    for number, page in enumerate(pages):
        row = "".join(
            f"  {share_right([page], [found[number][0]]):>8.0%} {found[number][1] * 1_000:8.1f} ms"
            for _, found in columns
        )
        sys.stdout.write(f"{page.script:10}{row}\n")


def _timed(pages: Sequence[Page]) -> list[tuple[list[tuple[int, int] | None], float]]:
    found = []
    for page in pages:
        grounded(page)
        started = time.process_time()
        spans = grounded(page)
        found.append((spans, time.process_time() - started))
    return found


if __name__ == "__main__":
    main()
