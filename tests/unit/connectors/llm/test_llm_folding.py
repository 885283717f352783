"""Folding in chunks, and the mapping back, against folding character by character."""

# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.llm import folding
from connectors.llm.folding import (
    Folded,
    dates_in,
    folded,
    numbers_in,
    places_of_words,
    word_pattern,
    words_in,
)

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


@given(text=TEXTS, value=TEXTS, many=st.sampled_from([0, 99]))
def test_words_have_their_places(text: str, value: str, many: int) -> None:
    words = Counter(words_in(value))
    wanted = [(*one.span(), one[0]) for one in word_pattern(text).finditer(text) if one[0] in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folding, "_MANY_WORDS", many)
        assert places_of_words(text, words, 0) == wanted


def test_rare_words_end_the_search_for_a_value() -> None:
    assert places_of_words("one two", Counter(["one", "two", "three"]), 2) != []
    assert places_of_words("one two", Counter(["one", "two", "three"]), 3) == []


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


def test_hostile_digits_take_linear_time() -> None:
    """Quadratic searches would take minutes at these lengths."""
    assert dates_in("1234" * 100_000) == {}
    assert dates_in("1234 " * 20_000) == {}
    assert numbers_in("_" + "1" * 100_000) == {}
