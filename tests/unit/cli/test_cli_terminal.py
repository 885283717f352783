from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from engine.cli.display.terminal import printable


def test_escape_sequences_are_shown_instead_of_obeyed() -> None:
    assert printable("a\x1b[2Jb\rc\x9b31m") == "a\\x1b[2Jb\\x0dc\\x9b31m"


def test_direction_marks_are_shown() -> None:
    assert printable("safe\u202egpj.exe") == "safe\\u202egpj.exe"


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    shown = printable(text)
    assert not [one for one in shown if unicodedata.category(one) == "Cc" and one not in "\t\n"]


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"])))
def test_plain_text_is_unchanged(text: str) -> None:
    assert printable(text) == text
