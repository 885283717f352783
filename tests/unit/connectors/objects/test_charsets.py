"""Text in common encodings: declared, undeclared, declared wrongly, and damaged."""

# ruff: noqa: RUF001 - the letters of other scripts are what is tested

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.objects.block_text import BlockDecoder
from connectors.objects.charsets import known_charset
from connectors.objects.decoding import Decoded, decode

GERMAN = "Sehr geehrte Frau Müller, wir bestätigen die Überweisung über 1.200 € für Köln. Schöne Grüße\n" * 5
RUSSIAN = "Привет, мир. Отчёт за май готов, подпишите его сегодня.\n" * 5
JAPANESE = "会議は三時に始まります。資料を持ってきてください。\n" * 5
CHINESE = "会议三点开始,请带上资料。谢谢您的合作,期待与您见面。\n" * 5
ASCII = "17;ordered;2026-01-01;ok\n" * 4000

DECLARED = [
    (GERMAN, "utf-8"),
    (GERMAN, "windows-1252"),
    (GERMAN, "iso-8859-15"),
    (GERMAN, "utf-16le"),
    (GERMAN, "utf-16be"),
    (GERMAN, "utf-32le"),
    (GERMAN, "utf-32be"),
    (GERMAN, "utf-7"),
    (GERMAN, "cp1140"),
    (GERMAN.replace("€", "E"), "cp037"),
    (GERMAN.replace("€", "E"), "IBM500"),
    (GERMAN.replace("€", "E"), "ibm-273"),
    (RUSSIAN, "koi8-r"),
    (RUSSIAN, "cp866"),
    (RUSSIAN, "windows-1251"),
    (RUSSIAN, "iso-8859-5"),
    (RUSSIAN, "x-mac-cyrillic"),
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc-jp"),
    (JAPANESE, "iso-2022-jp"),
    (CHINESE, "gbk"),
    (CHINESE, "gb18030"),
    (CHINESE, "hz-gb-2312"),
    ("a;b\n1;2\n", "utf-16le"),
    ("a;b\n1;2\n", "utf-32be"),
]


def test_russian_of_dos_is_guessed() -> None:
    text = "имя,город\nИван,Москва\nПётр,Тула\n"
    decoded = decode(text.encode("cp866"), "a.csv")
    assert (decoded.content, decoded.encoding, decoded.guessed) == (text, "cp866", True)


def encoded(text: str, charset: str) -> bytes:
    found = known_charset(charset)
    if found is None:
        pytest.skip(f"this Python does not know {charset}")
    return text.encode(found)


@pytest.mark.parametrize(("text", "charset"), DECLARED, ids=lambda value: value if len(value) < 15 else "")
def test_a_declared_charset_is_what_the_text_is_in(text: str, charset: str) -> None:
    decoded = decode(encoded(text, charset), "a.txt", f"text/plain; charset={charset}")
    assert (decoded.content, decoded.is_binary) == (text, False)
    assert (decoded.encoding, decoded.replaced, decoded.guessed) == (known_charset(charset), 0, False)


WIDER = [
    ("株式会社①の請求書、髙橋様 ㈱山田\n", "cp932", "shift_jis"),
    ("株式会社①の請求書、髙橋様 ㈱山田\n", "cp932", "windows-31j"),
    ("똠방각하 펲시 안녕하세요\n", "cp949", "ks_c_5601-1987"),
    ("镕基与喆的合同€\n", "gb18030", "gb2312"),
    ("恒碁裏粧嫺\n", "big5hkscs", "big5"),
    ("5 € สวัสดี\n", "cp874", "tis-620"),
    ("“Müller” ş\n", "cp1254", "iso-8859-9"),
]
"""Texts, what they are written in, and what whoever wrote them calls it."""


@pytest.mark.parametrize(("text", "written", "called"), WIDER, ids=[one[2] for one in WIDER])
def test_a_charset_holds_what_its_vendors_added(text: str, written: str, called: str) -> None:
    data = text.encode(written)
    declared = decode(data, "a.txt", f"text/plain; charset={called}")
    assert (declared.content, declared.encoding, declared.guessed) == (text, written, False)
    assert decode(data, "a.txt", None, called).content == text
    lines = BlockDecoder(known_charset(called), None)
    assert (lines.decode(text[:1].encode(written)).text, lines.decode(data).text) == (text[:1], text)


@pytest.mark.parametrize(
    ("text", "charset"),
    [("請求書①\n", "cp932"), ("똠방각하 펲시 안녕하세요 청구서를 확인했습니다\n" * 20, "cp949")],
)
def test_what_vendors_added_is_guessed_too(text: str, charset: str) -> None:
    decoded = decode(text.encode(charset), "a.txt", None)
    assert (decoded.content, decoded.encoding, decoded.guessed) == (text, charset, True)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("x-cp1251", "cp1251"), ("win-1251", "cp1251"), ("dos-866", "cp866"), ("windows-874", "cp874"),
        ("x-mac-roman", "mac-roman"), ("x-mac-cyrillic", "mac-cyrillic"), ("iso-8859-8-i", "iso8859-8"),
    ],
)  # fmt: skip
def test_the_webs_names_of_charsets_are_known(label: str, name: str) -> None:
    assert known_charset(label) == name


@pytest.mark.parametrize(("text", "charset"), DECLARED, ids=lambda value: value if len(value) < 15 else "")
@pytest.mark.parametrize("declared", [None, "utf-8", "windows-1252", "nonsense"])
def test_the_option_overrides_declarations(text: str, charset: str, declared: str | None) -> None:
    header = f"text/plain; charset={declared}" if declared else None
    assert decode(encoded(text, charset), "a.txt", header, charset).content == text


@pytest.mark.parametrize("text", [GERMAN, RUSSIAN, JAPANESE, CHINESE, "Grüße", ASCII])
@pytest.mark.parametrize(
    "declared", ["windows-1252", "utf-16", "utf-16le", "utf-32", "cp037", "gbk", "shift_jis"]
)
def test_a_declaration_that_the_bytes_disprove_is_passed_over(text: str, declared: str) -> None:
    if text == "Grüße" and declared in ("gbk", "shift_jis"):
        return  # too short to tell
    decoded = decode(text.encode(), "a.txt", f"text/plain; charset={declared}")
    assert decoded.content == text
    assert decoded.encoding in ("utf-8", declared, known_charset(declared))


@pytest.mark.parametrize(
    "mark_and_encoding",
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (b"+/v8-", "utf-7"),
        (b"\x84\x31\x95\x33", "gb18030"),
    ],
)
@pytest.mark.parametrize("declared", [None, "windows-1252", "utf-8"])
def test_a_byte_order_mark_says_more_than_a_declaration(
    mark_and_encoding: tuple[bytes, str], declared: str | None
) -> None:
    mark, encoding = mark_and_encoding
    header = f"text/plain; charset={declared}" if declared else None
    decoded = decode(mark + GERMAN.encode(encoding), "a.txt", header)
    assert (decoded.content, decoded.replaced, decoded.guessed) == (GERMAN, 0, False)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.csv"])
@pytest.mark.parametrize(
    "declared", [None, "text/plain", "text/plain; charset=utf-8", "text/plain; charset=latin-1"]
)
@pytest.mark.parametrize(
    ("data", "text", "replaced"),
    [
        (GERMAN.encode() + b"Stra\xdfe\n" + GERMAN.encode(), f"{GERMAN}Stra\ufffde\n{GERMAN}", 1),
        (JAPANESE.encode()[:-3], JAPANESE[:-2] + "\ufffd", 1),
        ("Müller wohnt Stra".encode() + b"\xdfe", "Müller wohnt Stra\ufffde", 1),
        (b"\xff" + GERMAN.encode() + b"\xfe\xff", f"\ufffd{GERMAN}\ufffd\ufffd", 3),
        (GERMAN.encode() + "\ufffd".encode(), f"{GERMAN}\ufffd", 0),
    ],
)
def test_few_bad_bytes_in_utf8_are_replaced_and_counted(
    name: str, declared: str | None, data: bytes, text: str, replaced: int
) -> None:
    if declared and declared.endswith("latin-1"):
        data, text = data.replace(b"\xe2\x82\xac", b"EUR"), text.replace("€", "EUR")
        if replaced:
            return  # Latin-1 explains every byte, and only whole UTF-8 disproves it
    decoded = decode(data, name, declared)
    assert (decoded.content, decoded.replaced, decoded.encoding) == (text, replaced, "utf-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("marked", [True, False])
def test_wide_text_that_is_cut_off_keeps_its_beginning(encoding: str, marked: bool) -> None:
    text = ("\ufeff" if marked else "") + GERMAN
    declared = None if marked else f"text/plain; charset={encoding}"
    decoded = decode(text.encode(encoding)[:-1], "a.txt", declared)
    assert decoded.content == GERMAN[:-1] + "\ufffd"
    assert decoded.replaced == 1


@pytest.mark.parametrize("charset", ["shift_jis", "euc-jp", "iso-2022-jp"])
def test_a_declared_text_with_a_bad_byte_is_still_that_text(charset: str) -> None:
    data = JAPANESE.encode(charset) + b"\xff\n" + JAPANESE.encode(charset)
    decoded = decode(data, "a.txt", f"text/plain; charset={charset}")
    assert decoded.content.startswith(JAPANESE)
    assert decoded.content.endswith(JAPANESE)
    assert 1 <= decoded.replaced <= 2


@pytest.mark.parametrize(
    ("text", "charset"), [(JAPANESE, "shift_jis"), (RUSSIAN, "cp1251"), (GERMAN, "cp1252")]
)
def test_a_guess_looks_where_the_text_is_not_ascii(text: str, charset: str) -> None:
    decoded = decode((ASCII + text).encode(charset), "a.csv", "text/csv")
    assert (decoded.content, decoded.guessed) == (ASCII + text, True)


def test_an_undeclared_utf16_text_is_guessed() -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        decoded = decode(GERMAN.encode(encoding), "a.csv")
        assert (decoded.content, decoded.encoding, decoded.guessed) == (GERMAN, encoding, True)


@pytest.mark.parametrize(
    "head",
    [
        '<?xml version="1.0" encoding="koi8-r"?>',
        "<html><head><meta charset=koi8-r>",
        "<meta content='text/html; charset=koi8-r'>",
    ],
)
def test_a_page_that_names_its_own_charset_is_read_in_it(head: str) -> None:
    text = head + RUSSIAN
    decoded = decode(text.encode("koi8-r"), "a.html", "text/html")
    assert (decoded.content, decoded.guessed) == (text, False)


@pytest.mark.parametrize("charset", ["cp866", "windows-1252", "shift_jis", "utf-8"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(20)),
        ("a.pdf", b"%PDF-1.4\nall ascii"),
        ("a.txt", b"%PDF-1.4\nall ascii"),
        ("a.docx", b"PK\x03\x04\0\0"),
        ("a.jpg", b"\xff\xd8\xff\xe0 no zero in here \xe4\xf6"),
        ("photo", b"\xff\xd8\xff\xe0\x10JFIF no zero"),
        ("a.gz", b"\x1f\x8b\x08\x01abc"),
    ],
)
def test_the_option_makes_no_text_of_what_is_none(charset: str, name: str, data: bytes) -> None:
    assert decode(data, name, None, charset).is_binary
    assert decode(data, name, f"application/octet-stream; charset={charset}").is_binary


@given(
    st.binary(max_size=400),
    st.sampled_from([None, "utf-8", "cp1252", "utf-16-le", "shift_jis", "cp037", "utf-7"]),
)
def test_any_bytes_are_decoded_or_kept(data: bytes, charset: str | None) -> None:
    for option, declared in ((charset, None), (None, charset)):
        header = f"text/plain; charset={declared}" if declared else None
        decoded: Decoded = decode(data, "a.txt", header, option)
        assert decoded.replaced <= decoded.content.count("\ufffd")
        assert decoded.is_binary == (decoded.encoding is None)
        decoded.content.encode("utf-8", "strict" if charset != "utf-7" else "surrogatepass")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=200))
def test_valid_utf8_is_always_itself(text: str) -> None:
    decoded = decode(text.encode(), "a.txt")
    assert (decoded.content, decoded.replaced, decoded.guessed) == (text, 0, False) or text.startswith(
        "%PDF-"
    )


@pytest.mark.parametrize("charset", ["iso8859-15", "cp1252"])
def test_guess_knows_the_euro_sign_of_both_charsets(charset: str) -> None:
    decoded = decode("Größe; 5 €\n".encode(charset), "a.txt")
    assert (decoded.content, decoded.encoding, decoded.guessed) == ("Größe; 5 €\n", charset, True)
