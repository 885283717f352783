"""The formats `lines` and `jsonl`."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.objects.decoding import decode_whole
from connectors.objects.pages import RecordPlace
from connectors.objects.params import ObjectParams
from engine.errors import RecordError
from tests.series import few
from tests.unit.connectors.objects.reading import (
    dead,
    format_of,
    good,
    numbered,
    pages_of,
    read_ends,
    reader_of,
)

LINES = [{"id": number, "text": f"Zeile {number} ü"} for number in range(40)]
JSONL = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in LINES).encode()


def contents(pages: list[Any]) -> list[str]:
    return [record["content"] for record in good(pages)]


async def test_each_line_is_a_record_with_its_number() -> None:
    pages = await pages_of(reader_of(b"one\r\ntwo\n\nfour"), format="lines")
    assert good(pages) == [
        {"file_path": "s3://b/a.txt", "line": number, "content": text}
        for number, text in enumerate(["one", "two", "", "four"], 1)
    ]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf", "\ufeff".encode("utf-16-le"), b""])
async def test_a_byte_order_mark_alone_is_no_line(data: bytes) -> None:
    assert contents(await pages_of(reader_of(data), format="lines")) == []


async def test_lines_before_early_damage_are_read() -> None:
    reader = reader_of(gzip.compress(b"one\ntwo\n") + b"garbage", "a.txt.gz")
    found: list[str] = []
    with pytest.raises(RecordError, match="damaged"):
        async with aclosing(format_of(format="lines").pages(reader, RecordPlace())) as pages:
            async for page in pages:
                found += contents([page])
    assert found == ["one", "two"]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("utf-8-sig", None), ("utf-16", None), ("utf-32", None), ("utf-16-le", None),
        ("cp1252", None), ("utf-16-be", "utf-16be"), ("iso2022_jp", "iso-2022-jp"), ("cp500", "cp500"),
    ],
)  # fmt: skip
async def test_lines_are_found_in_every_encoding(encoding: str, declared: str | None) -> None:
    lines = ["日本語", "二行目"] if "2022" in encoding else ["Grüße aus Köln", "schöne, müde Füße"]
    data = "\n".join(lines).encode(encoding)
    stated = None if declared is None else f"text/plain; charset={declared}"
    pages = await pages_of(reader_of(data, piece=3, content_type=stated), format="lines")
    assert contents(pages) == lines


async def test_the_charset_of_the_user_comes_first() -> None:
    data = "Дома\nжили".encode("koi8-r")
    stated = "text/plain; charset=windows-1252"
    pages = await pages_of(reader_of(data, content_type=stated), format="lines", charset="koi8-r")
    assert contents(pages) == ["Дома", "жили"]


@pytest.mark.slow
async def test_an_encoding_may_turn_out_far_after_the_head() -> None:
    data = b"plain\n" * 40_000 + "Müller, Grüße, Köln\n".encode("cp1252") + "Füße\n".encode("cp1252") * 3000
    reader = reader_of(data)
    pages = await pages_of(reader, format="lines")
    assert contents(pages)[-1] == "Füße"
    assert pages[-1].guessed
    place = pages[-3].end
    assert place.encoding
    assert numbered(await pages_of(reader, place, format="lines")) == numbered(pages[-2:])


async def test_invalid_bytes_are_replaced_and_counted_or_refused() -> None:
    data = "gut\nGrüße schöne Füße üü\n".encode() + b"sch\xfflecht\nlast"
    pages = await pages_of(reader_of(data), format="lines")
    assert contents(pages)[2] == "sch\ufffdlecht"
    assert sum(page.replaced for page in pages) == 1
    strict = await pages_of(reader_of(data), format="lines", strict_text=True)
    assert dead(strict) == {3: "InvalidText"}
    assert len(good(strict)) == 3
    json.dumps([page.records for page in strict]).encode()


@pytest.mark.parametrize(("kind", "field"), [("lines", "content"), ("jsonl", "a"), ("csv", "a")])
async def test_a_wrong_byte_spoils_no_later_text(kind: str, field: str) -> None:
    """Alone in its page it looks like Latin-1, which the pages after it are not."""
    texts = ["Jos\udce9", *["plain"] * 3, "Müller", "日本", "Jürgen, Füße", "M\udcfcller"]
    form = '{"a": "%s"}\n' if kind == "jsonl" else '"%s"\n'
    data = "".join(form % text for text in texts).encode("utf-8", "surrogateescape")
    reader = reader_of(b"a\n" + data if kind == "csv" else data)
    pages = await pages_of(reader, format=kind, page_records=2)
    found = [record[field].strip('"') for record in good(pages)]
    assert [text for text in found if text != "a"] == ["José", *["plain"] * 3, *texts[4:7], "M\ufffdller"]
    for page, later in zip(pages, range(1, len(pages)), strict=False):
        again = await pages_of(reader, page.end, format=kind, page_records=2)
        assert good(again) == good(pages[later:])


@pytest.mark.parametrize(("kind", "field"), [("lines", "content"), ("jsonl", "a"), ("csv", "a")])
async def test_text_in_no_charset_that_is_guessed_dies_by_line(kind: str, field: str) -> None:
    """DOS's Western code pages: half of the letters would be U+FFFD."""
    texts = ["plain", "Müller Straße Köln Grüße", "plain", "schöne Füße", "plain"]
    form = '{"a": "%s"}\n' if kind == "jsonl" else '"%s"\n'
    data = "".join(form % text for text in texts).encode("cp850")
    reader = reader_of(b"a\n" + data if kind == "csv" else data)
    pages = await pages_of(reader, format=kind, page_records=2)
    first = 2 if kind == "csv" else 1
    assert dead(pages) == {first + 1: "InvalidText", first + 3: "InvalidText"}
    assert [record[field].strip('"') for record in good(pages)][-3:] == ["plain"] * 3
    assert sum(page.replaced for page in pages) == 0
    assert all("set `charset`" in str(error) for page in pages for _, error in page.failures)
    json.dumps([page.records for page in pages]).encode()
    for page, later in zip(pages, range(1, len(pages)), strict=False):
        again = await pages_of(reader, page.end, format=kind, page_records=2)
        assert numbered(again) == numbered(pages[later:])
    right = await pages_of(reader, format=kind, charset="cp850")
    assert [record[field].strip('"') for record in good(right)][-5:] == texts


@pytest.mark.parametrize(
    "line", ["Müller Straße Köln Grüße".encode("cp850"), b"a \x81\x8d\x8f\x90\x9d\x81"], ids=["none", "cp932"]
)
async def test_a_wrong_line_leaves_later_utf8_as_it_is(line: bytes) -> None:
    text = "Grüße, schöne Füße über Köln, Größe"
    data = line + f"\n{text}\n".encode() + "Mü".encode() + b"ll\xffer\n"
    pages = await pages_of(reader_of(data), format="lines", page_records=1)
    assert contents(pages)[-2:] == [text, "Müll\ufffder"]


async def test_a_text_in_no_charset_that_is_guessed_names_the_remedy() -> None:
    params = ObjectParams(format="text")
    with pytest.raises(RecordError, match="set `charset`"):
        await decode_whole("Müller Straße Köln".encode("cp850"), "a.txt", "d/a.txt", None, params)
    with pytest.raises(RecordError, match="ZIP archive: unpack it first"):
        await decode_whole(b"PK\x03\x04\0\0", "a.txt", "d/a.txt", None, params)


async def test_lines_may_end_with_carriage_returns_alone() -> None:
    reader = reader_of(b"one\rtwo\r\rfour\r", piece=3)
    pages = await pages_of(reader, format="lines", page_records=1)
    assert contents(pages) == ["one", "two", "", "four"]
    assert contents(await pages_of(reader, pages[1].end, format="lines")) == ["", "four"]


@pytest.mark.parametrize("kind", ["lines", "jsonl"])
async def test_a_long_line_is_a_dead_letter_and_not_memory(kind: str) -> None:
    data = b'{"a": 1}\n' + b"x" * 5000 + b'\n{"a": 2}\n'
    pages = await pages_of(reader_of(data, piece=100), format=kind, max_record_bytes=1000)
    assert dead(pages) == {2: "LongLine"}
    assert len(good(pages)) == 2


@pytest.mark.parametrize("kind", ["lines", "jsonl", "csv"])
async def test_a_binary_object_is_refused_as_a_whole(kind: str) -> None:
    with pytest.raises(RecordError, match="is not text") as caught:
        await pages_of(reader_of(b"\x00\x01\x02PNG\n\xff" * 10), format=kind)
    assert caught.value.kind == "NotText"


@pytest.mark.parametrize("kind", ["lines", "jsonl", "csv"])
@pytest.mark.parametrize(
    "data", [b"\0" * 5000, "a\nb\n".encode("utf-16-le") + b"\0", b"ID3\x04\0\0" + b"abc" * 50]
)
async def test_what_is_mostly_zeros_or_has_control_characters_is_no_text(kind: str, data: bytes) -> None:
    with pytest.raises(RecordError, match="is not text"):
        await pages_of(reader_of(data), format=kind)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
async def test_zeros_cost_no_line_but_their_own(encoding: str) -> None:
    """A crash leaves runs of zeros in files that others append to, and exports have them in texts."""
    lines = [
        b'{"a": 1}',
        '{"a": "Grüße aus Köln"}'.encode(encoding),
        b"\0" * 4096,
        b'{"a": "x\0y"}',
        b'{"a": 3}',
    ]
    data = b"\n".join([*lines, b"\0" * 4096])
    pages = await pages_of(reader_of(data), format="jsonl")
    assert numbered(pages) == [
        (1, {"a": 1}), (2, {"a": "Grüße aus Köln"}), (3, "BrokenLine"), (4, "BrokenLine"), (5, {"a": 3}),
        (6, "BrokenLine"),
    ]  # fmt: skip
    rows = await pages_of(reader_of(b"a,b\n1,x\0y\n2,z\n" + b"\0" * 99), format="csv")
    assert numbered(rows) == [(2, {"a": 1, "b": "x\0y"}), (3, {"a": 2, "b": "z"}), (4, "WrongWidth")]
    assert contents(await pages_of(reader_of(b"one\0\ntwo three four\n"), format="lines")) == [
        "one\0", "two three four",
    ]  # fmt: skip


BAD = "gut\nGrüße schöne Füße üü\n".encode() + b"sch\xfflecht\nlast"


async def test_invalid_bytes_in_json_lines_are_replaced_and_counted_or_refused() -> None:
    data = b"\n".join(b'{"a": "%b"}' % line for line in BAD.split(b"\n"))
    pages = await pages_of(reader_of(data), format="jsonl")
    assert [record["a"] for record in good(pages)] == [
        "gut",
        "Grüße schöne Füße üü",
        "sch\ufffdlecht",
        "last",
    ]
    assert sum(page.replaced for page in pages) == 1
    strict = await pages_of(reader_of(data), format="jsonl", strict_text=True)
    assert dead(strict) == {3: "InvalidText"}
    assert len(good(strict)) == 3
    json.dumps([page.records for page in strict]).encode()


async def test_json_lines_in_an_old_code_page_are_read_and_said_to_be_guessed() -> None:
    lines = [{"a": 1}, *({"a": text} for text in ["Müller, Grüße", "Köln", "über", "9" * 30])]
    data = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines).encode("cp1252")
    reader = reader_of(data)
    pages = await pages_of(reader, format="jsonl", page_records=2)
    assert good(pages) == lines
    assert pages[-1].guessed
    assert numbered(await pages_of(reader, pages[0].end, format="jsonl", page_records=2)) == numbered(
        pages[1:]
    )


async def test_a_byte_order_mark_between_two_files_put_together_costs_no_record() -> None:
    pages = await pages_of(
        reader_of(b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n\xef\xbb\xbfno\n'), format="jsonl"
    )
    assert numbered(pages) == [(1, {"a": 1}), (2, {"a": 2}), (3, "BrokenLine")]
    lines = await pages_of(reader_of("\ufeffone\n\ufefftwo\na\ufeffb\n".encode()), format="lines")
    assert contents(lines) == ["one", "two", "a\ufeffb"]
    rows = await pages_of(reader_of("\ufeffa,b\n1,x\n\ufeff2,y\n".encode()), format="csv")
    assert good(rows) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


async def test_bad_lines_are_dead_letters_with_their_numbers() -> None:
    pages = await pages_of(reader_of(b'{"a": 1}\nnope\n\n[1]\n{"a": 99999999999999999999}\n'), format="jsonl")
    assert numbered(pages) == [
        (1, {"a": 1}), (2, "BrokenLine"), (4, "BrokenLine"), (5, {"a": 99999999999999999999}),
    ]  # fmt: skip
    assert pages[0].failures[0][1].args[0].startswith("s3://b/a.txt:2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packed", "encoding"),
    few(
        [
            (True, "utf-8-sig"),
            (True, "utf-8"),
            (False, "utf-16"),
            (True, "utf-16"),
            (False, "utf-8"),
            (False, "utf-8-sig"),
        ],
        3,
        several=True,
    ),
)
@given(piece=st.integers(1, 700), page=st.integers(1, 50))
async def test_reading_continues_after_any_page(packed: bool, encoding: str, piece: int, page: int) -> None:
    data = JSONL.decode().encode(encoding)
    reader = reader_of(gzip.compress(data) if packed else data, piece=piece)
    pages = await pages_of(reader, format="jsonl", page_records=page)
    assert good(pages) == LINES
    for number, one in list(enumerate(pages, 1))[:: max(1, len(pages) // 3)]:
        rest = await pages_of(reader, one.end, format="jsonl", page_records=page)
        assert numbered(rest) == numbered(pages[number:])


async def test_content_packed_twice_is_unpacked_twice() -> None:
    reader = reader_of(gzip.compress(gzip.compress(JSONL)), "a.jsonl.gz", encoding="gzip")
    assert good(await pages_of(reader, format="jsonl")) == LINES


async def test_records_before_the_damage_are_delivered() -> None:
    data = gzip.compress(JSONL * 300)
    found = 0
    with pytest.raises(RecordError, match="gzip data") as caught:
        async with aclosing(format_of(format="jsonl").pages(reader_of(data[:-20]), RecordPlace())) as pages:
            async for page in pages:
                found += len(page.records)
    assert caught.value.kind == "ObjectDamaged"
    assert found > 10_000


@pytest.mark.parametrize(
    ("pack", "cut"),
    few(
        [(gzip.compress, 4), (gzip.compress, 8), (lzma.compress, 8)],
        1,
        several=True,
    ),
)
async def test_a_resumed_read_notices_a_missing_end(pack: Callable[[bytes], bytes], cut: int) -> None:
    """Also if every record was delivered before."""
    reader = reader_of(pack(JSONL)[:-cut])
    ends: list[RecordPlace] = []
    for _ in range(2):
        for end in [RecordPlace(), *ends]:
            with pytest.raises(RecordError) as caught:
                await read_ends(format_of(format="jsonl", page_records=10), reader, end, ends)
            assert caught.value.kind == "ObjectDamaged"
    assert ends[-1].before == len(LINES)


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"%PDF-1.4\n1 0 obj\n", "a PDF file: read it with `format: document`"),
        (b"PAR1\x15\x04\x15\x10\n", "a Parquet file: read it with `format: parquet`"),
        (b"PK\x03\x04\x14\0", "a ZIP archive: unpack it first"),
        (
            b"PK\x03\x04\x14\0xl/workbook.xml",
            "a workbook: read its rows with `format: xlsx`, or its text with `format: document`",
        ),
        (b"PK\x03\x04\x14\0word/document.xml", "a Word file: read it with `format: document`"),
        (b"\x1f\x9d\x90a\x84\x8c", "packed by `compress`: unpack it first"),
        (b"\x04\x22\x4d\x18d@\xa7", "packed by LZ4: unpack it first"),
        (b"SQLite format 3\0" + bytes(80), "application/x-sqlite3"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "lines"])
async def test_binary_content_is_named_with_a_remedy(head: bytes, what: str, kind: str) -> None:
    with pytest.raises(RecordError) as caught:
        await pages_of(reader_of(head, "a.txt"), format=kind)
    assert caught.value.kind == "NotText"
    assert str(caught.value).endswith(f"is not text but {what}")


@pytest.mark.parametrize("text", ["ORCID,PAR1\n1,2\n", "a\x1fb\n", "\x01x\n"])
async def test_text_with_controls_is_text(text: str) -> None:
    assert good(await pages_of(reader_of(text.encode()), format="lines"))
