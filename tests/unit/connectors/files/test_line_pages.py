from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.objects.lines import LineBlock, LinePage, Place, ReadChunk, line_blocks, line_pages


def chunks_of(data: bytes, size: int) -> ReadChunk:
    parts = [data[start : start + size] for start in range(0, len(data), size)]

    async def read() -> bytes:
        return parts.pop(0) if parts else b""

    return read


BEGINNING = Place()


async def pages_of(
    data: bytes,
    size: int = 7,
    start: Place = BEGINNING,
    max_line: int = 100,
    page_lines: int = 3,
    until: int | None = None,
) -> list[LinePage]:
    read = chunks_of(data[start.offset :], size)
    pages = line_pages(read, start, max_line=max_line, page_lines=page_lines, until=until)
    return [page async for page in pages]


async def blocks_of(data: bytes, size: int, max_line: int, page_lines: int) -> list[LineBlock]:
    blocks = line_blocks(chunks_of(data, size), BEGINNING, max_line=max_line, page_lines=page_lines)
    return [block async for block in blocks]


def lines_of(pages: list[LinePage]) -> list[bytes | None]:
    return [line for page in pages for line in page.lines]


content = st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=12).map(
    b"\n".join
)


@pytest.mark.slow
@given(content, st.integers(1, 40), st.integers(1, 5))
async def test_any_chunking_gives_the_lines_of_the_file(data: bytes, size: int, page_lines: int) -> None:
    expected = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not expected[-1] and not data.endswith(b"\xef\xbb\xbf"):
        expected.pop()
    pages = await pages_of(data, size, page_lines=page_lines)
    assert lines_of(pages) == expected
    assert all(0 < len(page.lines) <= page_lines for page in pages)
    assert not pages or pages[-1].end == Place(len(data), len(expected))


@pytest.mark.slow
@given(content, st.integers(1, 40))
async def test_reading_continues_at_the_end_of_any_page(data: bytes, size: int) -> None:
    pages = await pages_of(data, size, page_lines=2)
    for index, page in enumerate(pages):
        rest = await pages_of(data, size, start=page.end, page_lines=2)
        assert lines_of(rest) == lines_of(pages[index + 1 :])


async def test_a_line_that_is_too_long_is_marked_and_the_next_one_is_read() -> None:
    data = b"short\n" + b"x" * 50 + b"\nnext\n" + b"y" * 50
    pages = await pages_of(data, max_line=10)
    assert lines_of(pages) == [b"short", None, b"next", None]
    assert pages[-1].end == Place(len(data), 4)


async def test_line_across_the_limit_is_read_whole() -> None:
    assert lines_of(await pages_of(b"aa\nbb\ncc\n", until=4)) == [b"aa", b"bb"]
    assert lines_of(await pages_of(b"aa\nbb\ncc\n", until=3)) == [b"aa"]
    assert lines_of(await pages_of(b"aa\nbb\ncc\n", until=0)) == []


async def test_byte_order_mark_counts_only_for_the_offset() -> None:
    (page,) = await pages_of(b"\xef\xbb\xbfa\n", size=2)
    assert page == LinePage(Place(), [b"a"], Place(5, 1))


@pytest.mark.slow
@given(content, st.integers(1, 40), st.integers(1, 5), st.sampled_from([3, 9, 100]))
async def test_blocks_have_the_lines_of_pages(data: bytes, size: int, page_lines: int, max_line: int) -> None:
    pages = await pages_of(data, size, max_line=max_line, page_lines=page_lines)
    blocks = await blocks_of(data, size, max_line, page_lines)
    assert [block.end for block in blocks] == [page.end for page in pages]
    for page, block in zip(pages, blocks, strict=True):
        assert block.data == b"\n".join([line or b"" for line in page.lines])
        assert set(block.long) == {at for at, line in enumerate(page.lines) if line is None}
        missing = page.end.offset - page.start.offset - len(block.data) - sum(block.long.values())
        assert 0 <= missing <= 1 + 3  # a line end at the end, and a byte order mark
