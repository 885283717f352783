"""Read text and page images of PDF files with pdfium."""

from __future__ import annotations

import struct
import threading
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, Final

from engine.errors import RecordError

if TYPE_CHECKING:
    import pypdfium2  # type: ignore[import-untyped]

MAX_PAGES = 100
MAX_PICTURES = 8
"""Maximum pages drawn as pictures; a longer scan is a permanent error."""

SPARSE = 20
"""Minimum characters of text; a page with fewer is drawn as a picture."""

MAX_SIDE = 1568
"""Pixels of a drawn page; models' providers scale larger pictures down."""

PROTECTED: Final = "it is protected by a password; save it without one and read that"

# pdfium must not be called from two threads at once (pypdfium2 documentation, "Thread incompatibility"),
# and all of the process share one library
_PDFIUM: Final = threading.Lock()


def read_pdf(data: bytes, name: str) -> list[str | bytes]:
    """Read the pages of a PDF as text or, without text, as grey PNG images; empty pages are skipped.

    The values of form fields and the texts of annotations follow the text of their page.

    Raises:
        RecordError: kind `CorruptDocument`, `UnsupportedDocument` (a password), `DocumentTooLarge` (pages).
    """
    import pypdfium2

    with _PDFIUM:
        try:
            with closing(pypdfium2.PdfDocument(data)) as document:
                document.init_forms()
                return _pages(document, name)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error):
                raise RecordError(f"{name}: {PROTECTED}", kind="UnsupportedDocument") from error
            raise RecordError(f"{name}: cannot read the PDF: {error}", kind="CorruptDocument") from error


def _pages(document: pypdfium2.PdfDocument, name: str) -> list[str | bytes]:
    count = len(document)
    if count == 0:
        raise RecordError(f"{name}: the PDF has no pages", kind="CorruptDocument")
    if count > MAX_PAGES:
        raise RecordError(
            f"{name}: {count} pages exceed the limit of {MAX_PAGES} per document", kind="DocumentTooLarge"
        )
    from connectors.objects.pdf_annotations import fields_and_notes

    found: list[str | bytes] = []
    pictures = 0
    for index in range(count):
        with closing(document[index]) as page:
            text = _text(page)
            if len(text) < SPARSE and _has_picture(page):
                pictures += 1
                if pictures > MAX_PICTURES:
                    raise RecordError(
                        f"{name}: more than {MAX_PICTURES} pages are scans", kind="DocumentTooLarge"
                    )
                found.append(_picture(page))
                text = ""
            if text := "\n".join(filter(None, [text, *fields_and_notes(document, page)])):
                found.append(text)
    return found


def _text(page: pypdfium2.PdfPage) -> str:
    with closing(page.get_textpage()) as textpage:
        return str(textpage.get_text_bounded()).replace("\r\n", "\n").strip()


def _has_picture(page: pypdfium2.PdfPage) -> bool:
    """Return whether something other than text is drawn on the page."""
    from pypdfium2 import raw

    return any(found.type != raw.FPDF_PAGEOBJ_TEXT for found in page.get_objects(max_depth=3))


def _picture(page: pypdfium2.PdfPage) -> bytes:
    longest = max(page.get_size())
    scale = min(MAX_SIDE / longest, 3.0) if longest > 0 else 1.0
    with closing(page.render(scale=scale, grayscale=True)) as bitmap:
        return _grey_png(bytes(bitmap.buffer), bitmap.width, bitmap.height, bitmap.stride)


def _grey_png(pixels: bytes, width: int, height: int, stride: int) -> bytes:
    """Encode 8-bit grey pixels as PNG (PNG specification, sections 5 and 11.2); `stride`: bytes per row."""
    # a zero before each row: no filter
    rows = b"".join(b"\0" + pixels[start : start + width] for start in range(0, height * stride, stride))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
