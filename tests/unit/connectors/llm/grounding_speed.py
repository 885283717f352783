"""Time the search for a value in 10 KB: `python -m tests.unit.connectors.llm.grounding_speed`.

Milliseconds of processor time, the best of fifteen, the folding of the text included.
"""

from __future__ import annotations

import sys
import time
from random import Random

from connectors.llm.grounding import Grounder

BYTES = 10_000
LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyz",
    "accents": "abcdefghijklmnopqéèäöü",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "chinese": "".join(map(chr, range(0x4E00, 0x4E80))),
}


def text_of(letters: str, random: Random) -> str:
    """Some 10 KB of words; without spaces where a script has none."""
    words = ["".join(random.choices(letters, k=random.randint(2, 9))) for _ in range(800)]
    text = ("" if letters is LETTERS["chinese"] else " ").join(random.choices(words, k=4_000))
    return text.encode()[:BYTES].decode(errors="ignore")


def milliseconds(text: str, value: str) -> float:
    """The best time of fifteen."""
    times = []
    for _ in range(15):
        started = time.process_time()
        Grounder(text).find(value)
        times.append(time.process_time() - started)
    return min(times) * 1_000


def main() -> None:
    """Print a table."""
    random = Random(1)
    sys.stdout.write(f"{'':8}  {'folded':>6}  {'fuzzy':>6}  {'absent':>6}  {'repeated':>8}\n")
    for name, letters in LETTERS.items():
        text = text_of(letters, random)
        middle = text[len(text) * 3 // 4 :].split()[1:5] if " " in text else list(text[2_500:2_504])
        folded = "\t".join(middle).upper()
        fuzzy = " ".join([*middle[:3], "zzz"])
        figures = [milliseconds(text, value) for value in (folded, fuzzy, "not there at all zz")]
        figures.append(milliseconds(*_repeated(letters, random)))
        sys.stdout.write(f"{name:8}  " + "  ".join(f"{figure:6.2f}" for figure in figures) + "\n")


def _repeated(letters: str, random: Random) -> tuple[str, str]:
    """10 KB that repeat one sentence, and a value with its words in another order."""
    words = ["".join(random.choices(letters, k=random.randint(2, 9))) for _ in range(12)]
    sentence = ("" if letters is LETTERS["chinese"] else " ").join(words)
    return f"{sentence}. " * (BYTES // len(f"{sentence}. ".encode())), " ".join(reversed(words))


if __name__ == "__main__":
    main()
