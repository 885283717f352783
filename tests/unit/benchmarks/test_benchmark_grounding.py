"""The corpus of the grounding benchmark is as documented, and all its values are found."""

from __future__ import annotations

from benchmarks.grounding import corpus, grounded, share_right


def test_values_are_where_the_corpus_says() -> None:
    pages = corpus(2_000)
    assert len({page.script for page in pages}) == 12
    for page in pages:
        told = ["".join(page.text[slice(*span)].split()) for span in page.spans]
        assert told == ["".join(value.split()) for value in page.values]
        assert any("\n" in page.text[slice(*span)] for span in page.spans)


def test_every_value_is_grounded_in_every_script() -> None:
    pages = corpus(2_000)
    assert share_right(pages, [grounded(page) for page in pages]) == 1.0
