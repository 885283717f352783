"""Lazy keys agree with eager lists of strings and ordinals after any operation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.keys import KeyList, KeyRange, Keys, join_keys


@dataclass
class Eager:
    """The naive twin: a text and an ordinal for each record."""

    keys: Keys
    texts: list[str]
    places: list[int]


@st.composite
def begun(draw: st.DrawFn) -> Eager:
    count, first = draw(st.integers(0, 7)), draw(st.integers(0, 5))
    places = list(range(first, first + count))
    if draw(st.booleans()):
        return Eager(KeyRange("run/", first, first + count), [f"run/{place}" for place in places], places)
    texts = [f"key-{draw(st.integers(0, 99))}" for _ in places]
    return Eager(KeyList(texts, first), texts, places)


@st.composite
def changed(draw: st.DrawFn) -> Eager:
    eager = draw(begun())
    for _ in range(draw(st.integers(0, 5))):
        eager = _step(draw, eager)
    return eager


def _step(draw: st.DrawFn, was: Eager) -> Eager:
    count = len(was.texts)
    match draw(st.sampled_from(["slice", "take", "select", "suffix", "fan", "join"])):
        case "slice":
            start, stop = sorted((draw(st.integers(0, count)), draw(st.integers(0, count))))
            return Eager(was.keys.slice(start, stop), was.texts[start:stop], was.places[start:stop])
        case "take":
            chosen = [index for index in range(count) if draw(st.booleans())]
            return Eager(
                was.keys.take(chosen), [was.texts[i] for i in chosen], [was.places[i] for i in chosen]
            )
        case "select":
            mask = [draw(st.sampled_from([True, False, 1, 0, "x", None])) for _ in range(count)]
            chosen = [index for index in range(count) if mask[index]]
            return Eager(
                was.keys.select(mask, len(chosen)),
                [was.texts[i] for i in chosen],
                [was.places[i] for i in chosen],
            )
        case "suffix":
            return Eager(was.keys.with_suffix(":b"), [f"{text}:b" for text in was.texts], was.places)
        case "fan":
            counts = [draw(st.integers(0, 3)) for _ in range(count)]
            return Eager(
                was.keys.fan_out(counts),
                [f"{t}/{child}" for t, n in zip(was.texts, counts, strict=True) for child in range(n)],
                [p for p, n in zip(was.places, counts, strict=True) for _ in range(n)],
            )
        case _:
            other = draw(begun())
            return Eager(
                join_keys([was.keys, other.keys]), was.texts + other.texts, was.places + other.places
            )


@pytest.mark.slow
@given(changed())
def test_lazy_keys_are_the_eager_ones(eager: Eager) -> None:
    assert len(eager.keys) == len(eager.texts)
    assert eager.keys.to_list() == eager.texts
    assert list(eager.keys.ordinals()) == eager.places


def test_keys_of_a_list_are_cut_without_looking_at_the_others() -> None:
    cut = KeyList(["a", "b", "c", "d"], 10).slice(1, 3)

    assert isinstance(cut, KeyList)
    assert (cut.to_list(), list(cut.ordinals())) == (["b", "c"], [11, 12])
