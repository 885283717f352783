"""The format `json`: objects over any number of lines, in arrays or one after the other."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.objects.pages import RecordPlace
from connectors.objects.streaming import StreamPosition
from engine.errors import RecordError
from tests.unit.connectors.objects.reading import (
    dead,
    format_of,
    good,
    numbered,
    pages_of,
    read_ends,
    reader_of,
)

TEXT = st.text('ab{}[],"\\ü\n', max_size=8)
VALUE = st.recursive(
    st.none() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
)
OBJECTS = st.lists(st.dictionaries(TEXT, VALUE, max_size=3), max_size=6)


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1}, {"a": {"b": "}{"}}]',
        '[\n  {\n    "a": 1\n  },\n  {\n    "a": {"b": "}{"}\n  }\n]\n',
        '{"a": 1}{"a": {"b": "}{"}}',
        '{"a": 1},\r\n{"a": {"b": "}{"}},\r\n',
        '\x1e{"a": 1}\n\x1e{"a": {"b": "}{"}}\n',
        '\ufeff[[{"a": 1}], [], [{"a": {"b": "}{"}}]]',
    ],
    ids=["array", "spread out", "one after the other", "commas", "record separators", "nested arrays"],
)
@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
async def test_each_object_of_a_file_is_a_record(text: str, piece: int) -> None:
    pages = await pages_of(reader_of(text.encode(), piece=piece), format="json")
    assert numbered(pages) == [(1, {"a": 1}), (2, {"a": {"b": "}{"}})]


@pytest.mark.parametrize("text", ["", "[]", "[\n]\n", " \n"])
async def test_a_file_without_objects_has_no_records(text: str) -> None:
    assert await pages_of(reader_of(text.encode()), format="json") == []


@pytest.mark.slow
@given(records=OBJECTS, indent=st.none() | st.just(1), piece=st.integers(1, 40), page=st.integers(1, 4))
async def test_any_objects_are_read_and_resumed(
    records: list[dict[str, Any]], indent: int | None, piece: int, page: int
) -> None:
    data = json.dumps(records, indent=indent, ensure_ascii=False).encode()
    reader = reader_of(data, piece=piece)
    pages = await pages_of(reader, format="json", page_records=page)
    assert good(pages) == records
    for number, one in enumerate(pages, 1):
        again = await pages_of(reader, one.end, format="json", page_records=page)
        assert numbered(again) == numbered(pages[number:])


async def test_what_is_no_object_fails_alone_with_its_number() -> None:
    text = '[{"a": 1}, {"a": nope}, 7, "x, y", {"a": "two\nlines"}] // a comment\n{"a": 6}, {"a": '
    pages = await pages_of(reader_of(text.encode()), format="json")
    assert good(pages) == [{"a": 1}, {"a": 6}]
    assert dead(pages) == dict.fromkeys([2, 3, 4, 5, 6, 8], "BrokenLine")


@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2}', '[{"a": 1}, {"a": 2},\n', '[[{"a": 1}]', "["])
@pytest.mark.parametrize("piece", [1, 1 << 16])
async def test_an_array_that_is_cut_off_is_damage(text: str, piece: int) -> None:
    with pytest.raises(RecordError, match="never closed") as caught:
        await pages_of(reader_of(text.encode(), piece=piece), format="json")
    assert caught.value.kind == "ObjectDamaged"


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2}', '[[{"a": 1}, 7],\n[{"a": 2}]', '{"a": 1}\n[{"a": 2},']
)
@pytest.mark.parametrize("piece", [1, 1 << 16])
async def test_a_resumed_read_notices_that_an_array_is_cut_off(text: str, piece: int) -> None:
    reader = reader_of(text.encode(), piece=piece)
    ends: list[RecordPlace] = []
    with pytest.raises(RecordError, match="never closed"):
        await read_ends(format_of(format="json", page_records=1), reader, RecordPlace(), ends)
    assert len(ends) > 1
    for end in ends:
        kept = StreamPosition.of(StreamPosition(0, end).to_json()).place
        with pytest.raises(RecordError, match="never closed"):
            await pages_of(reader, kept, format="json", page_records=1)


async def test_a_position_of_an_earlier_release_blames_no_array() -> None:
    text = b'[{"a": 1}, {"a": 2}]'
    assert numbered(await pages_of(reader_of(text), RecordPlace(9, 1), format="json")) == [(2, {"a": 2})]


async def test_an_array_cut_off_inside_a_value_is_one_failure() -> None:
    reader = reader_of(b'[{"a": 1}, {"a": ')
    pages = await pages_of(reader, format="json")
    assert numbered(pages) == [(1, {"a": 1}), (2, "BrokenLine")]
    assert await pages_of(reader, pages[-1].end, format="json") == []


@pytest.mark.parametrize("text", ['[{"a": 1}]{"b": [}', '{"a": "["}', '{"a": 1}]'])
async def test_brackets_in_values_open_no_array(text: str) -> None:
    assert len(await pages_of(reader_of(text.encode()), format="json")) == 1


async def test_an_object_that_is_too_long_is_refused() -> None:
    data = b'[{"a": 1}, {"a": "%s"}, {"a": 3}]' % (b"x" * 5000)
    pages = await pages_of(reader_of(data), format="json", max_record_bytes=1000)
    assert numbered(pages) == [(1, {"a": 1}), (2, "LongLine"), (3, {"a": 3})]
    # where its end has not come yet, it is not waited for
    with pytest.raises(RecordError, match=r":2: .*max_record_bytes"):
        await pages_of(reader_of(data, piece=10), format="json", max_record_bytes=1000)


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "shift_jis", "gb18030"])
async def test_objects_are_found_in_every_encoding(encoding: str) -> None:
    """In Shift-JIS, the second byte of a character may be a brace or a backslash."""
    text = "Müller, Grüße aus Köln" if encoding in ("cp1252", "utf-16") else "表ソ能十予貼"
    data = json.dumps([{"a": text}, {"b": text}], ensure_ascii=False, indent=1).encode(encoding)
    pages = await pages_of(reader_of(data), format="json", charset=None if encoding == "utf-16" else encoding)
    assert good(pages) == [{"a": text}, {"b": text}]


async def test_packed_objects_are_unpacked() -> None:
    assert good(await pages_of(reader_of(gzip.compress(b'[{"a": 1}]')), format="json")) == [{"a": 1}]
