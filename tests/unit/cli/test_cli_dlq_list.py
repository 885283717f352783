"""The table of dead letters fits the terminal and keeps what tells dead letters apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.cli.dead_letters.list import _page, _table
from engine.contract.dead_letter import DeadLetter
from engine.dead_letters.search import DeadLetterMatch

LETTER = DeadLetter(
    "blobs-1", "blobs", "load", "d89c78eba4d057b4:blobs:extract/71", "service", "MarkedAsFailure",
    "file_name starts with\n[DLQ]", {"id": "x"},
    first_failed_at="2026-01-01T10:00:00Z", last_failed_at="2026-01-01T11:00:00Z",
)  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 110, 160])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = _table([DeadLetterMatch(LETTER), DeadLetterMatch(replace(LETTER, key="k"))], width)
    assert len(lines) == 3
    assert max(map(len, lines)) <= width


def test_a_long_key_gives_way_to_the_error_and_keeps_its_end() -> None:
    narrow = _table([DeadLetterMatch(LETTER)], 110)[1]
    assert "extract/71  MarkedAsFailure: file_name starts" in narrow
    assert LETTER.key not in narrow
    assert LETTER.key in _table([DeadLetterMatch(LETTER)], 160)[1]


def test_the_status_is_shown_when_it_is_not_open_everywhere() -> None:
    assert "status" not in _table([DeadLetterMatch(LETTER)], 160)[0]
    head, first, second = _table(
        [DeadLetterMatch(LETTER), DeadLetterMatch(replace(LETTER, status="replayed"))], 160
    )
    assert "status" in head
    assert "  open      " in first
    assert "  replayed  " in second


def test_a_page_says_where_a_record_is_that_was_too_large_to_be_kept() -> None:
    page = "\n".join(_page(DeadLetterMatch(replace(LETTER, record=None, reference="s3://bucket/key"))))
    assert "reference   s3://bucket/key (the record was too large to store)" in page
    assert "  record\n" not in page
