"""Workbooks, presentations, web pages, mails, rich text and pictures as documents, also hostile ones."""

# ruff: noqa: E501 - files stand as they are

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable

import docx
import pytest
import xlsxwriter
from PIL import Image
from pptx import Presentation
from pptx.util import Inches

from connectors.objects.decoding import decode
from connectors.objects.documents import ImagePart, TextPart, needs_opening, parts
from connectors.objects.isolation import DocumentReader
from connectors.objects.pictures import MAX_SIDE
from engine.errors import RecordError


def workbook() -> bytes:
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer) as book:
        sheet = book.add_worksheet("Stock")
        sheet.write_row(0, 0, ["item", "count", "price"])
        sheet.write_row(2, 0, ["pen", 3, 1.5])
        book.add_worksheet("Empty")
    return buffer.getvalue()


def presentation() -> bytes:
    shown = Presentation()
    slide = shown.slides.add_slide(shown.slide_layouts[5])
    slide.shapes.title.text = "Results"
    table = slide.shapes.add_table(1, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Q1", "12"
    slide.notes_slide.notes_text_frame.text = "say thanks"
    buffer = io.BytesIO()
    shown.save(buffer)
    return buffer.getvalue()


def picture(form: str, size: tuple[int, int] = (40, 30), pages: int = 1) -> bytes:
    buffer = io.BytesIO()
    images = [Image.new("RGB", size, (number, 0, 0)) for number in range(pages)]
    more = {"save_all": True, "append_images": images[1:]} if pages > 1 else {}
    images[0].save(buffer, form, **more)
    return buffer.getvalue()


HTML = (
    "<!DOCTYPE html><html><head><title>no</title><style>p{}</style></head><body><h1>Memo</h1>"
    "<p>Ann &amp; Bob<br>met</p><script>steal()</script><table><tr><td>a</td><td>1</td></tr></table></body></html>"
)
MAIL = (
    "From: Ann <ann@example.com>\r\nTo: bob@example.com\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
    'Content-Type: multipart/alternative; boundary="x"\r\n\r\n--x\r\nContent-Type: text/plain; charset=utf-8\r\n'
    "Content-Transfer-Encoding: quoted-printable\r\n\r\nTotal: 5=E2=82=AC\r\n--x\r\nContent-Type: text/html\r\n\r\n"
    "<html><p>no</p></html>\r\n--x--\r\n"
)
RTF = r"{\rtf1\ansi{\fonttbl\f0 Arial;}\f0 Patient: {\b J\'fcrgen}\par Age: 5}"


def text_of(data: bytes, name: str) -> str:
    content = decode(data, name).content
    assert needs_opening(content, name)
    (found,) = parts(content, name)
    assert isinstance(found, TextPart)
    return found.text


@pytest.mark.parametrize("start", ["<!-- -->", "<!-- -->\n", "<!--", "<?xml ?>"])
def test_a_page_of_comments_alone_is_told_at_once(start: str) -> None:
    assert not needs_opening(start * 2_000 + "text", "page.html")


def test_comments_may_stand_before_a_page() -> None:
    assert needs_opening("<?xml version='1.0'?>\n<!-- a --><!-- b -->\n<!DOCTYPE html><p>x</p>", "page.html")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.xlsx", workbook(), "# Stock\nitem | count | price\npen | 3 | 1.5\n# Empty"),
        ("a.xlsm", workbook(), "# Stock\nitem | count | price\npen | 3 | 1.5\n# Empty"),
        ("a.pptx", presentation(), "# Slide 1\nResults\nQ1 | 12\nsay thanks"),
        ("a.html", HTML.encode(), "Memo\nAnn & Bob\nmet\na | 1"),
        ("a.HTM", HTML.encode(), "Memo\nAnn & Bob\nmet\na | 1"),
        (
            "a.eml",
            MAIL.encode(),
            "From: Ann <ann@example.com>\nTo: bob@example.com\nSubject: Grüße\n\nTotal: 5€",
        ),
        ("a.rtf", RTF.encode(), "Patient: Jürgen\nAge: 5"),
    ],
    ids=["xlsx", "xlsm", "pptx", "html", "htm", "eml", "rtf"],
)
def test_the_text_of_a_file_is_what_a_reader_sees(name: str, data: bytes, text: str) -> None:
    assert text_of(data, name) == text


WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"


def word_file(content_type: str, namespace: str = "") -> bytes:
    """A document with the word `Hello`, whose main part is declared like this."""
    buffer = io.BytesIO()
    docx.Document().save(buffer)
    made = io.BytesIO()
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(made, "w") as copy:
        for member in archive.namelist():
            data = archive.read(member)
            if member == "[Content_Types].xml":
                data = data.replace(f"{WORD}.document.main+xml".encode(), content_type.encode())
            if member == "word/document.xml":
                data = data.replace(b"<w:sectPr", b"<w:p><w:r><w:t>Hello</w:t></w:r></w:p><w:sectPr", 1)
                old = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
                data = data.replace(old, namespace.encode() or old)
            copy.writestr(member, data)
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("a.docm", "application/vnd.ms-word.document.macroEnabled.main+xml"),
        ("a.dotm", "application/vnd.ms-word.template.macroEnabledTemplate.main+xml"),
        ("a.dotx", f"{WORD}.template.main+xml"),
        ("a.doc", f"{WORD}.document.main+xml"),
    ],
)
def test_word_files_of_every_form_are_read(name: str, content_type: str) -> None:
    assert text_of(word_file(content_type), name) == "Hello"


@pytest.mark.parametrize(
    ("name", "make", "text"),
    [
        ("a.doc", RTF.encode, "Patient: Jürgen\nAge: 5"),
        ("a.xls", HTML.encode, "Memo\nAnn & Bob\nmet\na | 1"),
        ("a.xls", workbook, "# Stock\nitem | count | price\npen | 3 | 1.5\n# Empty"),
        ("report", presentation, "# Slide 1\nResults\nQ1 | 12\nsay thanks"),
        ("a.eml", f"From a@b.c Mon Jan  1\n{MAIL}".encode, None),
    ],
    ids=["rtf as doc", "html as xls", "xlsx as xls", "pptx without suffix", "mail of a mailbox"],
)
def test_a_file_under_another_name_is_known_by_content(
    name: str, make: Callable[[], bytes], text: str | None
) -> None:
    assert text_of(make(), name) == (text or text_of(MAIL.encode(), name))


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


@pytest.mark.parametrize(
    ("name", "data", "remedy"),
    [
        ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le"), "protected by a password"),
        ("a.docx", word_file("x", "http://purl.oclc.org/ooxml/wordprocessingml/main"), "ordinary Word doc"),
        ("a.avif", b"\0\0\0\x1cftypavif" + bytes(50), "image/avif files; save it as PNG or JPEG"),
        ("a.doc", OLE, "save it as docx"),
    ],
)
def test_what_cannot_be_read_names_a_remedy(name: str, data: bytes, remedy: str) -> None:
    with pytest.raises(RecordError, match=remedy):
        parts(decode(data, name).content, name)


MIXED = "From: a@b.c\nContent-Type: multipart/{kind}; boundary=x\n\n--x\n{parts}\n--x--\n"


@pytest.mark.parametrize(
    ("mail", "text"),
    [
        (
            MIXED.format(
                kind="mixed", parts="Content-Type: message/rfc822\n\nFrom: d@e.f\nSubject: in\n\nAnn"
            ),
            "From: a@b.c\n\nFrom: d@e.f\nSubject: in\n\nAnn",
        ),
        (
            MIXED.format(
                kind="mixed",
                parts="Content-Type: text/plain\n\nAnn\n--x\nContent-Type: text/html\n\n<p>Bob</p>\n--x\n"
                "Content-Type: text/csv\nContent-Disposition: attachment\n\n1,2",
            ),
            "From: a@b.c\n\nAnn\n\nBob\n\n1,2",
        ),
        (
            MIXED.format(
                kind="alternative",
                parts="Content-Type: text/plain\n\n \n--x\nContent-Type: text/html\n\n<p>Ann</p>",
            ),
            "From: a@b.c\n\nAnn",
        ),
        ("From: a@b.c\nContent-Type: multipart/mixed\n\nAnn\n", "From: a@b.c\n\nAnn"),
        (
            "From: <\nTo: @\nDate: yesterday\nSubject: =?x?q?y?=\n\nAnn",
            "From: <\nTo: <>\nDate: yesterday\nSubject: y\n\nAnn",
        ),
    ],
    ids=["forwarded", "several parts", "empty plain form", "no boundary", "odd headers"],
)
def test_a_mail_gives_all_that_its_reader_sees(mail: str, text: str) -> None:
    assert text_of(mail.encode(), "a.eml") == text


def test_mails_inside_of_very_many_mails_are_refused() -> None:
    mail = "From: a@b.c\n" + "Content-Type: message/rfc822\n\nFrom: d@e.f\n" * 3000
    with pytest.raises(RecordError, match="nested too deeply"):
        text_of(mail.encode(), "a.eml")


def test_a_pdf_with_something_before_it_is_one() -> None:
    assert decode(b"\r\njunk\n" * 20 + b"%PDF-1.7\n", "a.pdf").content_type == "application/pdf"
    assert decode(b"What %PDF-1.7 means", "a.txt").content == "What %PDF-1.7 means"


def test_an_eight_bit_mail_keeps_its_letters() -> None:
    mail = "From: a@b.c\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: 8bit\n\nGrüße\n"
    assert text_of(mail.encode("latin-1"), "a.eml").endswith("Grüße")


@pytest.mark.parametrize("name", ["notes.txt", "a.eml", "a.html", "a.rtf"])
def test_a_text_that_only_has_such_a_name_stays_as_it_is(name: str) -> None:
    text = "just <b>words</b>, no page"
    assert parts(text, name) == [TextPart(text)]


@pytest.mark.parametrize(("form", "name"), [("BMP", "a.bmp"), ("TIFF", "a.tiff")])
def test_pictures_that_no_model_reads_become_png(form: str, name: str) -> None:
    (page,) = parts(decode(picture(form), name).content, name)
    assert isinstance(page, ImagePart)
    assert page.url.startswith("data:image/png;base64,")


def test_each_page_of_a_scan_is_a_picture_of_bounded_size() -> None:
    pages = parts(decode(picture("TIFF", (3_000, 10), pages=2), "a.tif").content, "a.tif")
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(one.url.partition(",")[2]))).size
        for one in pages
        if isinstance(one, ImagePart)
    ]
    assert [width for width, _ in sizes] == [MAX_SIDE, MAX_SIDE]


def bomb(member: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, b"0" * 70_000_000)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("a.xlsx", lambda: workbook()[:700], "CorruptDocument"),
        ("a.pptx", lambda: presentation()[:9_000], "CorruptDocument"),
        ("a.pptx", workbook, "CorruptDocument"),
        ("a.xlsx", lambda: bomb("xl/workbook.xml"), "DocumentTooLarge"),
        ("a.bmp", lambda: picture("BMP")[:60], "CorruptDocument"),
        ("a.tiff", lambda: b"II*\x00" + b"\xff" * 40, "CorruptDocument"),
    ],
)
async def test_a_damaged_or_hostile_file_is_a_dead_letter_of_its_own(
    name: str, make: Callable[[], bytes], kind: str
) -> None:
    async with DocumentReader() as reader:
        with pytest.raises(RecordError) as caught:
            await reader.parts(decode(make(), name).content, name)
        assert caught.value.kind == kind
        assert await reader.parts(decode(HTML.encode(), "b.html").content, "b.html")
