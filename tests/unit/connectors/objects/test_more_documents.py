"""Workbooks, presentations, web pages, mails, rich text and pictures as documents, also hostile ones."""

# ruff: noqa: E501 - files stand as they are

from __future__ import annotations

import base64
import gzip
import io
import zipfile
from collections.abc import Callable
from typing import Any

import docx
import pytest
import xlsxwriter
from PIL import Image
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches
from reportlab.lib.pdfencrypt import StandardEncryption  # type: ignore[import-untyped]
from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

from connectors.objects.decoding import decode
from connectors.objects.documents import MAX_SIDE, ImagePart, TextPart, needs_opening, parts
from connectors.objects.isolation import DocumentReader
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
def test_a_page_of_comments_alone_is_reported_at_once(start: str) -> None:
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
        (
            "a.mht",
            MAIL.encode(),
            "From: Ann <ann@example.com>\nTo: bob@example.com\nSubject: Grüße\n\nTotal: 5€",
        ),
        ("a.rtf", RTF.encode(), "Patient: Jürgen\nAge: 5"),
    ],
    ids=["xlsx", "xlsm", "pptx", "html", "htm", "eml", "mht", "rtf"],
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


@pytest.mark.slow
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


def pdf_file(fill: Callable[[Canvas], object], **options: Any) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, **options)
    fill(canvas)
    canvas.save()
    return buffer.getvalue()


def filled_form(canvas: Canvas) -> None:
    canvas.drawString(72, 700, "Application for leave")
    form = canvas.acroForm
    form.textfield(name="n", tooltip="Name", value="Ann Lee", x=72, y=650)
    form.textfield(name="empty", x=72, y=600)
    form.textfield(name="pin", value="1234", fieldFlags="password", x=72, y=550)
    form.checkbox(name="paid", checked=True, x=72, y=500)
    form.checkbox(name="sick", checked=False, x=72, y=450)
    form.choice(name="unit", options=["days", "hours"], value="hours", x=72, y=400)
    form.radio(name="half", value="am", selected=False, x=72, y=350)
    form.radio(name="half", value="pm", selected=True, x=72, y=300)


def noted_page(canvas: Canvas) -> None:
    canvas.drawString(72, 700, "Text of the page")
    canvas.freeTextAnnotation("typed on it", None, [72, 500, 200, 540])
    canvas.textAnnotation("a note", [72, 600, 200, 640])
    canvas.textAnnotation("hidden", [72, 600, 200, 640], F=2)


@pytest.mark.parametrize(
    ("fill", "text"),
    [
        (
            filled_form,
            "Application for leave\nName: Ann Lee\n[x] paid\n[ ] sick\nunit: hours\nhalf: pm",
        ),
        (noted_page, "Text of the page\ntyped on it\na note"),
    ],
    ids=["form", "notes"],
)
def test_a_pdf_gives_what_is_filled_in_and_noted(fill: Callable[[Canvas], object], text: str) -> None:
    assert text_of(pdf_file(fill), "a.pdf") == text


def test_a_pdf_with_a_password_names_a_remedy() -> None:
    data = pdf_file(lambda canvas: canvas.drawString(9, 9, "x"), encrypt=StandardEncryption("user", "owner"))
    with pytest.raises(RecordError, match="save it without one") as caught:
        parts(decode(data, "a.pdf").content, "a.pdf")
    assert caught.value.kind == "UnsupportedDocument"
    text = "what its owner lets no one print"
    data = pdf_file(
        lambda canvas: canvas.drawString(9, 9, text), encrypt=StandardEncryption("", "owner", canPrint=0)
    )
    assert text_of(data, "a.pdf") == text


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ('<w:sym w:font="Wingdings" w:char="F0FE"/><w:t>paid</w:t>', "☑paid"),
        ('<w:sym w:font="Symbol" w:char="F061"/><w:sym w:font="Symbol" w:char="62"/>', "αβ"),
        ('<w:t>a</w:t><w:sym w:font="Arial" w:char="20AC"/><w:sym w:font="X" w:char="F0FE"/>', "a€"),
        ("<w:fldChar><w:ffData><w:checkBox><w:checked/></w:checkBox></w:ffData></w:fldChar>", "☒ "),
        (
            (
                '<w:fldChar><w:ffData><w:checkBox><w:default w:val="1"/><w:checked w:val="0"/></w:checkBox>'
                "</w:ffData></w:fldChar><w:t>b</w:t>"
            ),
            "☐ b",
        ),
        (
            (
                '<w:fldChar><w:ffData><w:ddList><w:result w:val="1"/><w:listEntry w:val="red"/>'
                '<w:listEntry w:val="blue"/></w:ddList></w:ffData></w:fldChar>'
            ),
            "blue",
        ),
    ],
)
def test_symbols_and_fields_of_old_forms_are_text(inside: str, text: str) -> None:
    document = docx.Document()
    document.element.body.insert(0, docx.oxml.parse_xml(f"<w:p {W}><w:r>{inside}</w:r></w:p>"))
    buffer = io.BytesIO()
    document.save(buffer)
    assert text_of(buffer.getvalue(), "a.docx") == text


def charted() -> bytes:
    shown = Presentation()
    slide = shown.slides.add_slide(shown.slide_layouts[5])
    slide.shapes.title.text = "Sales\vby quarter"
    data = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = ["Q1", "Q2"]
    data.add_series("North", (1, None))  # type: ignore[no-untyped-call]
    size = Inches(1), Inches(1), Inches(4), Inches(4)
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *size, data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "In thousands"
    buffer = io.BytesIO()
    shown.save(buffer)
    return buffer.getvalue()


def test_a_chart_gives_its_title_and_values() -> None:
    expected = "# Slide 1\nSales\nby quarter\nIn thousands\n | Q1 | Q2\nNorth | 1 | "
    assert text_of(charted(), "a.pptx") == expected


ODF = "urn:oasis:names:tc:opendocument:xmlns"
SHEET = (
    f"<office:document-content xmlns:office='{ODF}:office:1.0' xmlns:text='{ODF}:text:1.0' "
    f"xmlns:table='{ODF}:table:1.0'><office:body><office:spreadsheet><table:table table:name='Stock'>"
    "<table:table-row><table:table-cell office:value-type='string'><text:p>pen</text:p></table:table-cell>"
    "<table:table-cell office:value-type='date' office:date-value='2026-01-05'/></table:table-row>"
    "</table:table></office:spreadsheet></office:body></office:document-content>"
)


def open_sheet() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", SHEET)
        archive.writestr("META-INF/manifest.xml", f"<m:manifest xmlns:m='{ODF}:manifest:1.0'/>")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.ods", "report"])
def test_an_open_document_sheet_is_read(name: str) -> None:
    assert text_of(open_sheet(), name) == "# Stock\npen | 2026-01-05"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<pre>a  1\nb  2</pre> c  d", "a 1\nb 2\nc d"),
        (
            (
                "<form>Name <input value='Ann'><input type=checkbox checked> paid<input type=hidden value=no>"
                "<textarea>two\nlines</textarea><select><option>red<option>blue</select></form>"
            ),
            "Name Ann [x] paid\ntwo\nlines\nred\nblue",
        ),
        (
            "<table><caption>T</caption><tr><td>1</table><details><summary>S</summary>D</details>",
            "T\n1\nS\nD",
        ),
    ],
    ids=["as written", "form", "blocks"],
)
def test_a_page_keeps_lines_and_fields_apart(page: str, text: str) -> None:
    assert text_of(f"<html><body>{page}</body></html>".encode(), "a.html") == text


def test_a_page_in_an_old_charset_may_be_called_a_workbook() -> None:
    page = "<html><head><meta charset=windows-1252></head><table><tr><td>Grüße</td></tr></table></html>"
    assert text_of(page.encode("cp1252"), "a.xls") == "Grüße"


@pytest.mark.parametrize(
    ("rich", "text"),
    [
        (r"\u-10179?\u-8704? ok", "😀 ok"),
        (
            r"Dose{\footnote \chftn twice {\b daily}} given{\header Ward 5\par}{\footerf page}",
            "Dose[^1] given\n[^1]: twice daily\nWard 5\n\npage",
        ),
        (r"\headery720\{\footery720 a", "{a"),
        (r"a{\footnote never closed", "a[^1\n[^1]: never closed]"),
    ],
    ids=["emoji", "notes", "no notes", "open"],
)
def test_rich_text_gives_emoji_notes_and_margins(rich: str, text: str) -> None:
    assert text_of(f"{{\\rtf1 {rich}}}".encode(), "a.rtf") == text


def bomb(member: str, size: int = 70_000_000) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, b"0" * size)
    return buffer.getvalue()


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


@pytest.mark.parametrize(
    ("name", "data", "remedy"),
    [
        ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le"), "protected by a password"),
        ("a.docx", word_file("x", "http://purl.oclc.org/ooxml/wordprocessingml/main"), "ordinary Word doc"),
        ("a.avif", b"\0\0\0\x1cftypavif" + bytes(50), "image/avif files; save it as PNG or JPEG"),
        ("a.doc", OLE, "save it as docx"),
        ("a.zip", bomb("a.txt", 9), "application/zip files; unpack it first"),
        ("a.txt.gz", gzip.compress(b"x"), "unpack it first, or read it with `format: text`"),
        ("a.txt", "Müller Straße Köln Größe".encode("cp850"), "set `charset` where it is read"),
    ],
    ids=["encrypted", "strict", "avif", "doc", "zip", "gzip", "charset"],
)
def test_unreadable_input_names_a_remedy(name: str, data: bytes, remedy: str) -> None:
    with pytest.raises(RecordError, match=remedy):
        parts(decode(data, name).content, name)


ENCODED = (
    "From: a@b.c\nContent-Type: text/plain; charset={}\nContent-Transfer-Encoding: quoted-printable\n\n{}\n"
)
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
            MIXED.format(
                kind="mixed",
                parts="Content-Type: text/plain\n\nsee below\n--x\nContent-Type: application/pdf\n"
                "Content-Disposition: attachment; filename*=utf-8''Gr%C3%BC%C3%9Fe.pdf\n\n%PDF",
            ),
            "From: a@b.c\n\nsee below\n\nAttachment: Grüße.pdf",
        ),
        (f"\r\n{ENCODED.format('iso-8859-1', '=80 5 =93a=94')}", "From: a@b.c\n\n€ 5 “a”"),
        (ENCODED.format("gb2312", "=D6=EC=E9F=BB=F9"), "From: a@b.c\n\n朱镕基"),
        (ENCODED.format("x-unknown", "Gr=FC=DFe aus K=F6ln"), "From: a@b.c\n\nGrüße aus Köln"),
        (
            "From: @\nDate: yesterday\nSubject: =?x?q?y?=\n\nAnn",
            "From: <>\nDate: yesterday\nSubject: y\n\nAnn",
        ),
    ],
    ids=[
        "forwarded",
        "several parts",
        "empty plain form",
        "no boundary",
        "attachment",
        "blank line and Latin-1",
        "GBK as GB 2312",
        "unknown charset",
        "odd headers",
    ],
)
def test_a_mail_gives_all_that_its_reader_sees(mail: str, text: str) -> None:
    assert text_of(mail.encode(), "a.eml") == text


@pytest.mark.slow
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
def test_a_text_that_only_has_such_a_name_is_unchanged(name: str) -> None:
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


@pytest.mark.slow
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
