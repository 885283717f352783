"""Folding in chunks, and the mapping back, against folding character by character."""

# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm import folding
from connectors.llm.folding import SCRIPTS_WITHOUT_SPACES, Folded, dates_in, folded, numbers_in
from connectors.llm.words import Words, _densest_window

ODD = " \t\n\u00a0\u2003aAéÉßﬁ\u0301\u200d\u200b\u00b4’“–Ｃ４ﷺ年ก\u0e48가ΣςİI\x1c1.,"
ODD += "\u0640\u0345\u302e\u1baa\u0323\U0001d165ᾳ﹘"
TEXTS = st.text(st.one_of(st.sampled_from(ODD), st.characters()), max_size=60)


def plainly(text: str) -> tuple[str, list[int]]:
    """The folded text, and for each of its characters where it came from."""
    pieces: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        whole = folding._PLAIN.get(character, unicodedata.normalize("NFKD", character).casefold())
        bare = "".join(one for one in whole if unicodedata.category(one) not in ("Mn", "Cf"))
        for one in " " if (bare or whole).isspace() else bare:
            if one != " " or (pieces and pieces[-1] != " "):
                pieces.append(one)
                places.append(place)
    return "".join(pieces), places


@pytest.mark.slow
@given(text=TEXTS, size=st.sampled_from([1, 2, 7, 128]))
def test_chunks_fold_as_single_characters_do(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "_CHUNK", size)
        found = Folded(text)
        wanted, places = plainly(text)
        assert found.text == wanted
        assert folded(text) == wanted.strip(" ")
        for offset, place in enumerate(places):
            start, end = found.span(offset, offset + 1)
            assert start == place < end


WORD = re.compile(rf"[{SCRIPTS_WITHOUT_SPACES}]|\w(?:[^\W{SCRIPTS_WITHOUT_SPACES}])*")


@given(text=TEXTS)
def test_words_are_divided_and_have_their_places(text: str) -> None:
    text = folded(text)
    words = Words(text)
    wanted = list(WORD.finditer(text))
    assert words._words == [one[0] for one in wanted]
    assert [words._start(index) for index in range(len(words))] == [one.start() for one in wanted]


@pytest.mark.slow
@given(
    text=st.lists(st.sampled_from("abcd東."), max_size=25),
    value=st.lists(st.sampled_from("abc東"), min_size=1, max_size=6),
    fewest=st.integers(1, 6),
)
def test_the_first_densest_window_is_found(text: list[str], value: list[str], fewest: int) -> None:
    words, size = [one for one in text if one != "."], len(value)
    fewest = min(fewest, size)
    hits = [
        sum((Counter(words[max(0, end - size) : end]) & Counter(value)).values())
        for end in range(len(words) + 1)
    ]
    best = max(hits) if len(words) >= size else 0
    found = _densest_window(words, value, fewest)
    assert (found is not None) == (best >= fewest)
    if found is not None:
        assert found[1] == hits.index(best) - 1
        assert words[found[0]] in value
        assert sum((Counter(words[found[0] : found[1] + 1]) & Counter(value)).values()) == best
    assert Words(" ".join(text)).densest(Words(" ".join(value)), fewest) == (
        found and (Words(" ".join(text))._start(found[0]), Words(" ".join(text))._start(found[1]) + 1)
    )


def test_marks_that_a_normalisation_may_move_are_known() -> None:
    plane = map(chr, range(ord(folding._LAST_OF_TABLE) + 1))
    moved = {one for one in plane if unicodedata.combining(one) and folding._fold(one)}
    assert moved == set(folding._ORDERED)


@given(text=st.text(st.sampled_from("0123456789.,-+'a_ \u00a0年月日/"), max_size=40))
def test_numbers_and_dates_are_found_as_one_search_finds_them(text: str) -> None:
    assert [one.span() for one in folding._numbers(text)] == [
        one.span() for one in folding._NUMBER.finditer(text)
    ]
    assert [one.span() for one in folding._dates(text)] == [
        one.span() for one in folding._DATE.finditer(text)
    ]


@pytest.mark.parametrize(
    "written",
    ["30th of September,   2026", "30 Sept. 2026", "September 30th, 2026", "2026-09-30", "30/09/2026"],
)
def test_dates_are_found_among_other_years(written: str) -> None:
    text = f"2019 2020, 1999: {'x' * 100} {written} 12345 2018"
    assert dates_in(text)["2026-09-30"] == (text.index(written), text.index(written) + len(written))


@pytest.mark.slow
def test_hostile_digits_take_linear_time() -> None:
    """Quadratic searches would take minutes at these lengths."""
    assert dates_in("1234" * 100_000) == {}
    assert dates_in("1234 " * 20_000) == {}
    assert numbers_in("_" + "1" * 100_000) == {}
