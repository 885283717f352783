"""Find the spans of values in documents of twelve scripts, compared with LangExtract's alignment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import figures
from benchmarks.grounding import OTHER, aligned, corpus, grounded, needs_langextract, share_right
from benchmarks.model import Arm, Benchmark, Goal, Scale, Work

OURS = "our grounding"


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``grounding``: processor time of 20 values in each document, and the share of right spans."""
    characters = scale.pick(8_000, 2_000)
    return [
        Benchmark(
            name="grounding",
            description=f"20 values in each of 12 documents of {characters:,} characters, a script each",
            arms=[
                Arm(OURS, partial(ours, characters), goals=[Goal(figures.RIGHT, ">=", 1.0)]),
                *(
                    Arm(
                        f"LangExtract, {name}",
                        partial(theirs, characters, name),
                        unavailable=needs_langextract,
                    )
                    for name in OTHER
                ),
            ],
            reference=OURS,
            unit="documents",
            metric=figures.CPU,
            pairs=5,
        )
    ]


def ours(characters: int) -> Work:
    """By `connectors.llm.grounding`."""
    pages = corpus(characters)
    found = [grounded(page) for page in pages]
    right = share_right(pages, found)
    return Work(len(pages), f"{len(pages)} documents", {figures.RIGHT: right})


def theirs(characters: int, tokenizer: str) -> Work:
    """By LangExtract, whose start does not count."""
    pages = corpus(characters)
    found = aligned(pages, tokenizer)
    right = share_right(pages, [spans for spans, _ in found])
    return Work(
        len(pages), f"{right:.0%} right", {figures.RIGHT: right, figures.CPU: sum(cpu for _, cpu in found)}
    )
