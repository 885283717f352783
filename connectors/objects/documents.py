"""Convert file content to text and images for a language model.

`parts` takes the `content` from `connectors.objects.decoding`. Text stays text; a PDF gives its text layer,
or pictures of its pages if that is almost empty; a Word file its paragraphs and tables; workbooks,
presentations, web pages, mails and rich text their text; an image keeps its data URL, or becomes PNG if
models do not read its type. The output is bounded, so that one file cannot fill a prompt. Time and memory for
opening a file are bounded by `connectors.objects.isolation`, which calls `parts` in another process.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from unicodedata import category

from connectors.objects.charsets import UNKNOWN_CHARSET
from connectors.objects.markup import kind_of_markup, plain_text
from connectors.objects.media_types import DOCX, is_text
from connectors.objects.office import ODS, PPTX, XLS, XLSX
from connectors.objects.pdf import PROTECTED
from engine.errors import RecordError

MAX_TEXT = 400_000
"""Maximum characters of a document, about 100,000 tokens; more is a permanent error, never truncated
silently."""

MAX_IMAGE_BYTES = 20 * 1024 * 1024

CONVERTED: Final = ("image/bmp", "image/tiff", "image/x-icon", "image/x-portable-pixmap")
"""Types that models do not accept."""

_OPENED = frozenset({"application/pdf", DOCX, XLSX, XLS, ODS, PPTX, *CONVERTED})
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_NEWER = {
    "application/msword": "docx",
    "application/vnd.ms-powerpoint": "pptx",
    "application/vnd.ms-outlook": "eml",
    "application/x-ole-storage": "docx, xlsx or pptx",
}
ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")
"""The name of the part in which Office stores a document with a password."""

_PACKED = frozenset({"application/gzip", "application/x-gzip", "application/x-bzip2", "application/x-xz"})
_ARCHIVES = frozenset({"application/zip", "application/x-tar", "application/x-7z-compressed"})
_OPEN_OFFICE = {"odt": "docx", "odp": "pptx", "pages": "docx", "epub": "html"}
_MARKED = re.compile(r"\[(?:IMAGE|PDF|DOC|BINARY)_DATA\]data:([\w.+-]+/[\w.+-]+);base64,")


@dataclass(frozen=True, slots=True)
class TextPart:
    """Some text of a document."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image of a document or of one of its pages, as a base64 data URL."""

    url: str


DocumentPart = TextPart | ImagePart


def parts(content: str, name: str) -> list[DocumentPart]:
    """Return the parts of a document in reading order; none if it is empty.

    If `needs_opening` is true, this may take a second, or unlimited time and memory for a hostile file.

    Args:
        content: text, or a marker and data URL.
        name: file name or address, for messages.

    Raises:
        RecordError: kind `CorruptDocument` if it cannot be opened, `UnsupportedDocument` if no model reads
            such files, `DocumentTooLarge` if it exceeds a limit.
    """
    marked = _MARKED.match(content)
    if marked is None:
        kind = kind_of_markup(content, name)
        return _text_parts(plain_text(content, name, kind) if kind else content, name)
    media_type = marked[1]
    if media_type in _IMAGES:
        return [_image(content[content.index("data:") :], name)]
    reader = _readers().get(media_type)
    if reader is None:
        if media_type in _NEWER and ENCRYPTED in _payload(content, marked.end(), name):
            raise RecordError(f"{name}: {PROTECTED}", kind="UnsupportedDocument")
        message = f"{name}: no model reads {media_type} files{_remedy(media_type, name)}"
        if is_text(media_type):  # and was no text all the same
            message = f"{name}: {UNKNOWN_CHARSET} where it is read"
        raise RecordError(message, kind="UnsupportedDocument")
    return reader(_payload(content, marked.end(), name), name)


def needs_opening(content: str, name: str = "") -> bool:
    """Return whether a library must open the file (anything but texts and common images)."""
    marked = _MARKED.match(content)
    return marked[1] in _OPENED if marked else bool(kind_of_markup(content, name))


def _readers() -> dict[str, Callable[[bytes, str], list[DocumentPart]]]:
    # each pulls in a library that most runs never need
    from connectors.objects.office import read_pptx, read_spreadsheet
    from connectors.objects.pdf import read_pdf
    from connectors.objects.word import read_docx

    workbook = lambda data, name: _text_parts(read_spreadsheet(data, name, MAX_TEXT), name)  # noqa: E731 - three times
    return {
        **dict.fromkeys(CONVERTED, lambda data, name: _checked(as_png_pages(data, name), name)),
        **dict.fromkeys((XLSX, XLS, ODS), workbook),
        PPTX: lambda data, name: _text_parts(read_pptx(data, name, MAX_TEXT), name),
        "application/pdf": lambda data, name: _checked(read_pdf(data, name), name),
        DOCX: lambda data, name: _text_parts(read_docx(data, name, MAX_TEXT), name),
    }


def _remedy(media_type: str, name: str) -> str:
    """Return the remedy for an unsupported format."""
    if media_type in _PACKED:
        return "; unpack it first, or read it with `format: text`"
    if media_type in _ARCHIVES and name.rpartition(".")[2].casefold() not in _OPEN_OFFICE:
        return "; unpack it first"
    if media_type.startswith("image/"):
        return "; save it as PNG or JPEG and read that"
    newer = _NEWER.get(media_type) or _OPEN_OFFICE.get(name.rpartition(".")[2].casefold())
    if newer is None:
        return ""
    command = f" (`soffice --headless --convert-to {newer}`)" if newer in ("docx", "xlsx", "pptx") else ""
    return f"; save it as {newer}{command} and read that"


def _text_parts(text: str, name: str) -> list[DocumentPart]:
    if len(text) > MAX_TEXT:
        raise RecordError(
            f"{name}: {len(text):,} characters exceed the limit of {MAX_TEXT:,} per document",
            kind="DocumentTooLarge",
        )
    return [] if is_blank(text) else [TextPart(text)]


def is_blank(text: str) -> bool:
    """Whether a text has nothing to read: white space, byte order marks, characters without a width."""
    return all(one.isspace() or category(one) == "Cf" for one in text)


def _checked(found: list[str | bytes], name: str) -> list[DocumentPart]:
    """Convert texts and PNG pictures of pages to parts, joining adjacent texts."""
    texts = [piece for piece in found if isinstance(piece, str)]
    made = _text_parts("\n\n".join(texts), name)
    pictures = (piece for piece in found if isinstance(piece, bytes))
    made += [
        _image(f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}", name)
        for picture in pictures
    ]
    return made


def _image(url: str, name: str) -> ImagePart:
    if len(url) > MAX_IMAGE_BYTES * 4 // 3:
        raise RecordError(
            f"{name}: the image is larger than {MAX_IMAGE_BYTES:,} bytes", kind="DocumentTooLarge"
        )
    return ImagePart(url)


def _payload(content: str, start: int, name: str) -> bytes:
    try:
        return base64.b64decode(content[start:], validate=True)
    except binascii.Error as error:
        raise RecordError(f"{name}: its base64 is invalid: {error}", kind="CorruptDocument") from error


MAX_SIDE: Final = 2_048  # pixels; models scale larger ones down themselves
MAX_PIXELS: Final = 100_000_000
_MAX_PAGES: Final = 20


def as_png_pages(data: bytes, name: str) -> list[str | bytes]:
    """Return the pages of a picture as PNG, with sides of at most `MAX_SIDE`.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (pixels, pages).
    """
    from PIL import Image, ImageSequence, UnidentifiedImageError

    pages: list[str | bytes] = []
    try:
        with Image.open(io.BytesIO(data)) as picture:
            for page in ImageSequence.Iterator(picture):
                if page.width * page.height > MAX_PIXELS or len(pages) >= _MAX_PAGES:
                    message = f"{name}: {page.width:,} x {page.height:,} pixels, or over {_MAX_PAGES} pages"
                    raise RecordError(message, kind="DocumentTooLarge")
                shown = page.convert("RGB")
                shown.thumbnail((MAX_SIDE, MAX_SIDE))
                written = io.BytesIO()
                shown.save(written, "PNG")
                pages.append(written.getvalue())
    except UnidentifiedImageError as error:
        message = f"{name}: cannot read the picture: it is not what its type says"
        raise RecordError(message, kind="CorruptDocument") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise RecordError(f"{name}: cannot read the picture: {error}", kind="CorruptDocument") from error
    except Image.DecompressionBombError as error:
        raise RecordError(f"{name}: {error}", kind="DocumentTooLarge") from error
    return pages
