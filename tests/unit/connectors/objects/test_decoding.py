from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

import pytest

from connectors.objects import charsets, decoding
from connectors.objects.decoding import decode, decode_in_turn
from connectors.objects.media_types import DOCX, by_content, charset_of

MEMO = "Überweisung – „Zahnärztliche Behandlung“ für Müller, 25 €\n"  # noqa: RUF001 - as people write it
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + bytes(20)
SAMPLES = Path(__file__).parents[4] / "samples" / "memos"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_a_memo_in_any_usual_encoding_is_its_text(encoding: str) -> None:
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    decoded = decode((mark + MEMO).encode(encoding), "a/memo.txt")
    assert decoded[:3] == (MEMO, "text/plain", False)


@pytest.mark.parametrize("path", sorted((SAMPLES / "encodings").glob("*.txt")), ids=lambda path: path.name)
def test_the_samples_in_odd_encodings_read_right(path: Path) -> None:
    encoding = {"utf8": "utf-8-sig", "utf16": "utf-16", "windows": "cp1252"}[path.stem.partition("_")[0]]
    data = path.read_bytes()
    assert decode(data, path.name).content == data.decode(encoding)


def test_the_charset_that_the_store_declares_comes_before_a_guess() -> None:
    text = "Привет"
    assert decode(text.encode("koi8-r"), "x", "text/plain; charset=KOI8-R").content == text


def test_declared_latin_1_means_windows_1252_as_on_the_web() -> None:
    assert decode("5 €".encode("cp1252"), "x", 'text/plain; charset="ISO-8859-1"').content == "5 €"


@pytest.mark.parametrize("charset", ["rot13", "hex", "idna", "no-such-thing", "unicode_escape", "utf-7", ""])
def test_a_declared_charset_that_is_none_is_passed_over(charset: str) -> None:
    decoded = decode("Größe 5 €".encode("cp1252"), "x.txt", f"text/plain; charset={charset}")
    assert decoded.content == "Größe 5 €"


def test_central_european_text_is_not_mistaken_for_western() -> None:
    text = "Zażółć gęślą jaźń. Proszę pamiętać o wizycie u stomatologa w przyszłą środę."
    assert decode(text.encode("cp1250"), "x.txt").content == text


def test_a_guess_from_a_sample_still_decodes_the_whole() -> None:
    text = MEMO * 3000
    data = text.encode("cp1252")
    assert len(data) > charsets.SAMPLE_BYTES
    assert decode(data, "long.txt").content == text


def test_undecodable_bytes_stay_binary_even_in_a_text_file() -> None:
    noise = bytes(range(1, 256)) * 4
    decoded = decode(noise, "x.txt")
    assert decoded.is_binary
    assert base64.b64decode(decoded.content.partition(",")[2]) == noise


@pytest.mark.parametrize("name", ["x", "x.bin", "x.jpg"])
def test_what_is_not_text_by_name_is_never_guessed(name: str) -> None:
    assert decode("Größe".encode("cp1252"), name).is_binary


@pytest.mark.parametrize("name", ["x.srt", "x.vcf", "x.properties", "x.css", "x.py"])
def test_text_of_any_usual_kind_is_guessed(name: str) -> None:
    assert decode(MEMO.encode("cp1252"), name).content == MEMO
    assert decode(PNG, name).content_type == "image/png"


def test_a_nul_byte_means_binary() -> None:
    assert decode(b"plain\0text", "x.txt")[:3] == (
        "[BINARY_DATA]data:text/plain;base64,cGxhaW4AdGV4dA==",
        "text/plain",
        True,
    )


def test_a_mark_without_valid_text_after_it_is_binary() -> None:
    assert decode(b"\xff\xfe\x00", "x.dat").is_binary
    assert decode(b"\xff\xfe" + b"a\0\0\0b\0", "x.dat").is_binary


def test_an_empty_file_is_empty_text() -> None:
    assert decode(b"", "a/empty.txt")[:3] == ("", "text/plain", False)


@pytest.mark.parametrize(
    ("data", "name", "marker", "media_type"),
    [
        (PNG, "scan", "IMAGE_DATA", "image/png"),
        (PNG, "wrong-name.pdf", "IMAGE_DATA", "image/png"),
        (b"%PDF-1.4\nall ascii", "x.txt", "PDF_DATA", "application/pdf"),
        (b"PK\x03\x04\0", "letter.docx", "DOC_DATA", DOCX),
        (b"PK\x03\x04\0 word/document.xml", "letter", "DOC_DATA", DOCX),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "old.doc", "DOC_DATA", "application/msword"),
        (b"PK\x03\x04\0", "things", "BINARY_DATA", "application/zip"),
        (b"\x01\0\x02", "photo.BMP", "IMAGE_DATA", "image/bmp"),
        (b"\x01\0\x02", "thing", "BINARY_DATA", "application/octet-stream"),
    ],
)
def test_binary_content_is_a_marker_and_a_data_url(
    data: bytes, name: str, marker: str, media_type: str
) -> None:
    encoded = base64.b64encode(data).decode()
    assert decode(data, name)[:3] == (f"[{marker}]data:{media_type};base64,{encoded}", media_type, True)


def test_the_declared_type_counts_last_and_never_as_octet_stream() -> None:
    assert decode(b"\x01\0", "thing", "application/x-thing; v=1").content_type == "application/x-thing"
    assert decode(b"\x01\0", "thing", "binary/octet-stream").content_type == "application/octet-stream"
    assert decode(b"a,b", "table", "text/csv; charset=utf-8").content_type == "text/csv"
    assert decode(b"a,b", "table.csv", "text/plain").content_type == "text/csv"


def test_text_under_the_name_of_an_image_is_text() -> None:
    assert decode(b"<html>not found</html>", "photo.jpg", "image/jpeg")[:3] == (
        "<html>not found</html>",
        "text/plain",
        False,
    )


def test_two_characters_that_open_a_bitmap_do_not_make_one() -> None:
    assert by_content(b"BM\xdfW is a car", "x") is None


def test_a_real_archive_is_distinguished_from_a_word_file() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "x")
    assert by_content(buffer.getvalue(), "x") == "application/zip"


def test_charset_is_read_from_a_content_type_header() -> None:
    assert charset_of('text/html; boundary=x; Charset="UTF-8"') == "utf-8"
    assert charset_of("text/html") is None
    assert charset_of(None) is None


@pytest.mark.parametrize("size", [10, decoding.THREAD_ABOVE + 1])
async def test_small_and_large_contents_decode_alike(size: int) -> None:
    assert (await decode_in_turn(b"x" * size, "x.txt"))[:3] == ("x" * size, "text/plain", False)
