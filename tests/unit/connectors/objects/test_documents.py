from __future__ import annotations

import base64
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pypdfium2
import pytest

from connectors.objects import documents, pdf, word
from connectors.objects.decoding import decode
from connectors.objects.documents import ImagePart, TextPart, needs_opening, parts
from connectors.objects.media_types import DOCX
from engine.errors import RecordError

if TYPE_CHECKING:
    from docx.document import Document as DocxDocument

SAMPLES = Path(__file__).parents[4] / "samples" / "memos"


def content_of(path: Path) -> str:
    return decode(path.read_bytes(), path.name).content


def data_url(marker: str, media_type: str, data: bytes) -> str:
    return f"[{marker}]data:{media_type};base64,{base64.b64encode(data).decode()}"


def blank_pdf(pages: int) -> bytes:
    buffer = io.BytesIO()
    document = pypdfium2.PdfDocument.new()
    for _ in range(pages):
        document.new_page(200, 300)
    document.save(buffer)
    document.close()
    return buffer.getvalue()


def scanned_pdf(pages: int) -> bytes:
    """Pages with a grey rectangle and no text."""
    from pypdfium2 import raw

    document = pypdfium2.PdfDocument.new()
    for _ in range(pages):
        page = document.new_page(200, 300)
        shape = raw.FPDFPageObj_CreateNewRect(20, 30, 100, 100)
        raw.FPDFPageObj_SetFillColor(shape, 90, 90, 90, 255)
        raw.FPDFPath_SetDrawMode(shape, raw.FPDF_FILLMODE_ALTERNATE, False)
        raw.FPDFPage_InsertObject(page, shape)
        page.gen_content()
    buffer = io.BytesIO()
    document.save(buffer)
    document.close()
    return buffer.getvalue()


def test_text_is_one_part() -> None:
    assert parts("Dear Dr. Hess", "memo.txt") == [TextPart("Dear Dr. Hess")]


@pytest.mark.parametrize("content", ["", " \n\t"])
def test_an_empty_document_has_no_parts(content: str) -> None:
    assert parts(content, "memo.txt") == []


def test_text_that_only_mentions_a_marker_stays_text() -> None:
    assert parts("[PDF_DATA] is a marker", "memo.txt") == [TextPart("[PDF_DATA] is a marker")]


def test_every_page_of_a_pdf_gives_its_text() -> None:
    (part,) = parts(content_of(SAMPLES / "2025/02/two pages 40.pdf"), "two pages 40.pdf")
    assert isinstance(part, TextPart)
    assert "Patient: Natasha Gonzales" in part.text
    assert "Dentist: Dr. Laura Martinez" in part.text


def test_paragraphs_and_tables_of_a_word_file_are_lines() -> None:
    (part,) = parts(content_of(SAMPLES / "2025/02/table 45.docx"), "table 45.docx")
    assert isinstance(part, TextPart)
    assert "Patient | Scott Travis\n" in part.text


def test_an_image_continues_as_its_data_url() -> None:
    path = SAMPLES / "scans" / "scan_47.png"
    (part,) = parts(content_of(path), path.name)
    assert isinstance(part, ImagePart)
    head, _, payload = part.url.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(payload) == path.read_bytes()


def test_a_scanned_page_is_drawn_as_a_picture_that_can_be_read_back() -> None:
    (part,) = parts(data_url("PDF_DATA", "application/pdf", scanned_pdf(1)), "scan.pdf")
    assert isinstance(part, ImagePart)
    png = base64.b64decode(part.url.partition(",")[2])
    width, height = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    assert (width, height) == (600, 900)
    body = png[png.index(b"IDAT") + 4 :]
    rows = zlib.decompressobj().decompress(body)
    assert len(rows) == height * (width + 1)
    assert set(rows[600 * (width + 1) + 1 :][:width]) >= {90, 255}


def test_a_pdf_of_blank_pages_has_no_parts() -> None:
    assert parts(data_url("PDF_DATA", "application/pdf", blank_pdf(2)), "blank.pdf") == []


def broken_docx() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("word/document.xml", "<broken")
    return buffer.getvalue()


def cut_docx() -> bytes:
    return (SAMPLES / "2025/02/table 45.docx").read_bytes()[:2000]


@pytest.mark.parametrize(
    ("media_type", "make"),
    [
        ("application/pdf", lambda: (SAMPLES / "2025/02/broken 53.pdf").read_bytes()),
        ("application/pdf", lambda: b"%PDF-"),
        (DOCX, broken_docx),
        (DOCX, cut_docx),
        (DOCX, lambda: b"PK\x03\x04"),
    ],
)
def test_a_broken_file_is_corrupt(media_type: str, make: Callable[[], bytes]) -> None:
    with pytest.raises(RecordError, match=r"some file: cannot read") as raised:
        parts(data_url("DOC_DATA", media_type, make()), "some file")
    assert raised.value.kind == "CorruptDocument"


def test_broken_base64_is_corrupt() -> None:
    with pytest.raises(RecordError) as raised:
        parts("[PDF_DATA]data:application/pdf;base64,???", "x.pdf")
    assert raised.value.kind == "CorruptDocument"


@pytest.mark.parametrize("media_type", ["application/zip", "application/msword", "audio/mpeg"])
def test_files_that_no_model_reads_are_refused_by_type(media_type: str) -> None:
    with pytest.raises(RecordError, match=media_type) as raised:
        parts(data_url("BINARY_DATA", media_type, b"x"), "thing")
    assert raised.value.kind == "UnsupportedDocument"


@pytest.mark.parametrize(
    ("media_type", "name", "remedy"),
    [
        ("application/msword", "a.doc", "--convert-to docx"),
        ("application/vnd.ms-powerpoint", "a.ppt", "--convert-to pptx"),
        ("application/vnd.ms-outlook", "a.msg", "save it as eml"),
        ("application/x-ole-storage", "a", "docx, xlsx or pptx"),
        ("application/zip", "a.ODT", "--convert-to docx"),
    ],
)
def test_an_older_form_of_a_document_is_refused_with_a_remedy(
    media_type: str, name: str, remedy: str
) -> None:
    with pytest.raises(RecordError, match=re.escape(remedy)):
        parts(data_url("DOC_DATA", media_type, b"x"), name)


def test_bounds_are_errors_and_never_cut_anything_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_TEXT", 10)
    monkeypatch.setattr(documents, "MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    monkeypatch.setattr(pdf, "MAX_PICTURES", 1)
    docx = content_of(SAMPLES / "2025/02/table 45.docx")
    for content in (
        "x" * 11,
        docx,
        data_url("IMAGE_DATA", "image/png", bytes(20)),
        data_url("PDF_DATA", "application/pdf", blank_pdf(3)),
        data_url("PDF_DATA", "application/pdf", scanned_pdf(2)),
    ):
        with pytest.raises(RecordError) as raised:
            parts(content, "x")
        assert raised.value.kind == "DocumentTooLarge"
    monkeypatch.setattr(word, "MAX_UNPACKED", 10)
    with pytest.raises(RecordError, match="it unpacks to"):
        parts(docx, "x")


def test_only_files_that_a_library_opens_need_opening() -> None:
    assert needs_opening(content_of(SAMPLES / "2025/02/table 45.docx"))
    assert needs_opening(data_url("PDF_DATA", "application/pdf", b"x"))
    assert not needs_opening("plain text")
    assert not needs_opening(data_url("IMAGE_DATA", "image/png", b"x"))
    assert not needs_opening(data_url("BINARY_DATA", "application/zip", b"x"))


W = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
)
RUN = "<w:r><w:t>Ann</w:t></w:r>"
PARAGRAPH = f"<w:p>{RUN}</w:p>"


def word_file(body: str) -> bytes:
    """A Word file with this in its body."""
    from docx import Document
    from docx.oxml import parse_xml

    made = Document()
    for element in parse_xml(f"<w:body {W}>{body}</w:body>"):
        made.element.body.insert(len(made.element.body) - 1, element)
    buffer = io.BytesIO()
    made.save(buffer)
    return buffer.getvalue()


BOX = f"<w:txbxContent>{PARAGRAPH}{PARAGRAPH}</w:txbxContent>"
OLD_BOX = f"<w:txbxContent>{PARAGRAPH}</w:txbxContent>"
CELL = f"<w:tc>{PARAGRAPH}</w:tc>"
BODIES = {
    "form": (f"<w:sdt><w:sdtContent>{PARAGRAPH}</w:sdtContent></w:sdt>", "Ann"),
    "field of a form": (f"<w:p><w:sdt><w:sdtContent>{RUN}</w:sdtContent></w:sdt></w:p>", "Ann"),
    "insertion": (
        f"<w:p><w:ins>{RUN}</w:ins><w:del><w:r><w:delText>Bob</w:delText></w:r></w:del></w:p>",
        "Ann",
    ),
    "move": (f"<w:p><w:moveFrom>{RUN}</w:moveFrom><w:moveTo>{RUN}</w:moveTo></w:p>", "Ann"),
    "fields": (f"<w:p><w:fldSimple>{RUN}</w:fldSimple><w:smartTag>{RUN}</w:smartTag></w:p>", "AnnAnn"),
    "link and breaks": (
        f"<w:p><w:hyperlink>{RUN}</w:hyperlink><w:r><w:tab/><w:t>x</w:t><w:br/></w:r>{RUN}</w:p>",
        "Ann\tx\nAnn",
    ),
    "formula": ("<w:p><m:oMath><m:r><m:t>x=1</m:t></m:r></m:oMath></w:p>", "x=1"),
    "pronunciation": (
        f"<w:p><w:r><w:ruby><w:rt>{RUN}</w:rt><w:rubyBase>{RUN}</w:rubyBase></w:ruby></w:r></w:p>",
        "Ann",
    ),
    "text box": (
        (
            f"<w:p><w:r><mc:AlternateContent><mc:Choice Requires='wps'>{BOX}</mc:Choice><mc:Fallback>"
            f"<w:pict>{OLD_BOX}</w:pict></mc:Fallback></mc:AlternateContent><w:t>Box:</w:t></w:r></w:p>"
        ),
        "Box:\nAnn\nAnn",
    ),
    "table in a table": (
        f"<w:tbl><w:tr>{CELL}<w:tc><w:tbl><w:tr>{CELL}{CELL}</w:tr></w:tbl><w:p/></w:tc></w:tr></w:tbl>",
        "Ann | Ann | Ann",
    ),
    "form in a table": (
        (
            f"<w:tbl><w:sdt><w:sdtContent><w:tr><w:sdt><w:sdtContent>{CELL}</w:sdtContent></w:sdt>{CELL}</w:tr>"
            f"</w:sdtContent></w:sdt><w:tr><w:trPr><w:del/></w:trPr>{CELL}</w:tr></w:tbl>"
        ),
        "Ann | Ann",
    ),
}


@pytest.mark.parametrize(("body", "text"), BODIES.values(), ids=BODIES)
def test_a_word_file_gives_all_that_its_reader_sees(body: str, text: str) -> None:
    assert word.read_docx(word_file(body), "x", 1000) == text


def test_the_letterhead_of_a_first_page_is_read() -> None:
    from docx import Document

    made = Document()
    made.sections[0].different_first_page_header_footer = True
    made.sections[0].first_page_header.paragraphs[0].text = "Dr. Ann"
    made.sections[0].header.paragraphs[0].text = "page 2"
    made.add_paragraph("Dear Bob")
    buffer = io.BytesIO()
    made.save(buffer)
    assert word.read_docx(buffer.getvalue(), "x", 1000) == "Dr. Ann\npage 2\nDear Bob"


def note_part(made: DocxDocument, kind: str, notes: str) -> None:
    """Add the footnotes, endnotes or comments of a Word file."""
    from docx.opc.packuri import PackURI
    from docx.opc.part import Part

    blob = f"<w:{kind}s {W}>{notes}</w:{kind}s>".encode()
    part = Part(PackURI(f"/word/{kind}s.xml"), "application/xml", blob, made.part.package)
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    made.part.relate_to(part, f"{relation}/{kind}s")


def note(kind: str, number: int, text: str) -> str:
    author = ' w:author="Dr. Ann"' if kind == "comment" else ""
    body = f"<w:p><w:r><w:{kind}Ref/><w:t>{text}</w:t></w:r></w:p>"
    return f'<w:{kind} w:id="{number}"{author}>{body}</w:{kind}>'


def test_headers_footers_and_notes_of_a_word_file_come_in_order() -> None:
    from docx import Document
    from docx.oxml import parse_xml

    def referring(kind: str, number: int) -> str:
        return f'<w:r><w:{kind}Reference w:id="{number}"/></w:r>'

    made = Document()
    for _ in range(2):
        made.add_section()
    for section, header, footer in zip(made.sections, ("Clinic", "Clinic", "Annex"), "fgf", strict=True):
        section.header.is_linked_to_previous = section.footer.is_linked_to_previous = False
        section.header.paragraphs[0].text, section.footer.paragraphs[0].text = header, footer
    text = f"<w:p>{RUN}{referring('footnote', 7)}{referring('comment', 0)}{RUN}{referring('footnote', 2)}"
    text += f"{referring('endnote', 2)}<w:del>{referring('footnote', 9)}</w:del></w:p>"
    made.element.body.insert(0, parse_xml(f"<w:body {W}>{text}</w:body>")[0])
    note_part(made, "footnote", "".join(note("footnote", n, f"note {n}") for n in (-1, 2, 7, 9)))
    note_part(made, "endnote", note("endnote", 2, "at the end"))
    note_part(made, "comment", note("comment", 0, "really?"))
    buffer = io.BytesIO()
    made.save(buffer)

    lines = word.read_docx(buffer.getvalue(), "x", 1000).split("\n")
    assert [line for line in lines if line] == [
        "Clinic",
        "Annex",
        "Ann[^1][^c1]Ann[^2][^e1]",
        "f",
        "g",
        "[^1]: note 7",
        "[^2]: note 2",
        "[^e1]: at the end",
        "[^c1]: Dr. Ann: really?",
    ]
