"""The quick check rules out no signature that the library would find."""

from __future__ import annotations

from contextlib import suppress

import puremagic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from puremagic import main as table

from connectors.objects.media_types import SURE_BYTES, by_content, has_signature

ROWS = [*table.magic_header_array, *table.magic_footer_array]
SIGNATURES = sorted({row.byte_match for row in ROWS})


def in_place(row: table.PureMagic, filler: bytes) -> bytes:
    """Content with a signature where it belongs."""
    signature: bytes = row.byte_match
    if row.offset >= 0:
        return (filler * (row.offset + 1))[: row.offset] + signature + filler
    return (filler * 600)[:600] + signature + (filler * 600)[: -row.offset - len(signature)]


@pytest.mark.slow
@example(b"", b"BM", b"\0")
@given(st.binary(max_size=40), st.sampled_from(SIGNATURES), st.binary(max_size=40))
def test_nothing_that_is_sure_is_ruled_out(before: bytes, signature: bytes, behind: bytes) -> None:
    for content in (before + signature + behind, signature + behind):
        found = []
        with suppress(puremagic.PureError, ValueError):
            found = puremagic.magic_string(content)
        if any(match.confidence >= SURE_BYTES / 10 for match in found):
            assert has_signature(content)


def test_every_signature_of_the_library_is_known() -> None:
    rows = [row for row in ROWS if len(row.byte_match) >= SURE_BYTES and row.offset < 8000]
    assert len(rows) > 1000
    assert [row for row in rows if not has_signature(in_place(row, b"\x01"))] == []


def test_what_is_nothing_is_reported_at_once() -> None:
    assert not has_signature(b"")
    assert not has_signature(b"\x01" * 8192)
    assert by_content(b"\x01" * 8192) is None
