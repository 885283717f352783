"""Read the text of Word files (docx) with python-docx."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from engine.errors import RecordError

if TYPE_CHECKING:
    from docx.document import Document
    from docx.oxml.xmlchemy import BaseOxmlElement

__all__ = ["MAX_UNPACKED", "check_unpacked_size", "joined_lines", "read_docx"]

MAX_UNPACKED = 64 * 1024 * 1024
"""Bytes of all members of the archive together; more is an archive bomb or a film."""

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MC: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_PARAGRAPH, _TABLE, _ROW, _CELL = f"{_W}p", f"{_W}tbl", f"{_W}tr", f"{_W}tc"
_BREAK, _TEXT_BOX, _ALTERNATIVES = f"{_W}br", f"{_W}txbxContent", f"{_MC}AlternateContent"
_TEXTS: Final = {f"{_W}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"}
_MARKS: Final = {f"{_W}tab": "\t", f"{_W}ptab": "\t", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_LEFT_OUT: Final = {f"{_W}{name}" for name in ("del", "moveFrom", "pPr", "rPr", "tblPr", "tblGrid", "rt")}
"""What no reader sees: deletions that are tracked, formats, and how characters are pronounced."""


def read_docx(data: bytes, name: str, max_text: int) -> str:
    """Read the header, paragraphs and tables of a Word file in document order, one line per table row.

    Reading stops soon after `max_text` characters, so a longer answer means that there was more.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (unpacked size).
    """
    import docx
    from docx.opc.exceptions import OpcError

    try:
        check_unpacked_size(data, name)
        document = docx.Document(io.BytesIO(data))
        return joined_lines(_lines(document), max_text)
    # python-docx lets the errors of its layers through: archive, package, XML (a SyntaxError), missing parts
    except (zipfile.BadZipFile, OpcError, SyntaxError, KeyError, ValueError, EOFError, zlib.error) as error:
        raise RecordError(f"{name}: cannot read the Word file: {error}", kind="CorruptDocument") from error


def check_unpacked_size(data: bytes, name: str) -> None:
    """Refuse an archive bomb. Raises RecordError of kind `DocumentTooLarge`, or `zipfile.BadZipFile`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED:
        message = f"{name}: it unpacks to {unpacked:,} bytes, more than {MAX_UNPACKED:,}"
        raise RecordError(message, kind="DocumentTooLarge")


def joined_lines(lines: Iterator[str], max_text: int) -> str:
    """Join lines, and stop soon after `max_text` characters."""
    kept: list[str] = []
    length = 0
    for line in lines:
        kept.append(line)
        length += len(line) + 1
        if length > max_text:
            break
    return "\n".join(kept).strip("\n")


def _lines(document: Document) -> Iterator[str]:
    if document.sections:
        section = document.sections[0]
        headers = [section.header]
        if section.different_first_page_header_footer:
            headers.insert(0, section.first_page_header)
        for header in headers:
            if not header.is_linked_to_previous:
                yield from filter(None, _blocks(header._element))
    yield from _blocks(document.element.body)


def _blocks(parent: BaseOxmlElement) -> Iterator[str]:
    """The lines of the paragraphs and tables below an element.

    They may be inside of others: content controls of forms, tracked insertions. python-docx looks at those
    that are not.
    """
    for child in parent:
        if child.tag == _PARAGRAPH:
            pieces: list[str] = []
            boxes: list[BaseOxmlElement] = []
            _inline(child, pieces, boxes)
            yield "".join(pieces)
            for box in boxes:
                yield from _blocks(box)
        elif child.tag == _TABLE:
            yield from _rows(child)
        elif child.tag not in _LEFT_OUT:
            yield from _blocks(_shown(child))


def _inline(parent: BaseOxmlElement, pieces: list[str], boxes: list[BaseOxmlElement]) -> None:
    """Take the text below an element, and the text boxes that are anchored there."""
    for child in parent:
        tag = child.tag
        if tag in _TEXTS:
            pieces.append(child.text or "")
        elif tag in _MARKS:
            pieces.append(_MARKS[tag])
        elif tag == _BREAK:
            pieces.append("\n" if child.get(f"{_W}type", "textWrapping") == "textWrapping" else "")
        elif tag == _TEXT_BOX:
            boxes.append(child)
        elif tag not in _LEFT_OUT:
            _inline(_shown(child), pieces, boxes)


def _shown(element: BaseOxmlElement) -> BaseOxmlElement:
    """The element, or the first of its forms where it has several, for newer and older programs."""
    return element[0] if element.tag == _ALTERNATIVES and len(element) else element


def _inside(parent: BaseOxmlElement, tag: str) -> Iterator[Any]:
    """The rows of a table, or the cells of a row, also those inside of content controls."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag not in _LEFT_OUT:
            yield from _inside(child, tag)


def _rows(table: BaseOxmlElement) -> Iterator[str]:
    """A line for each row. A merged cell stands once in a line, and in the line of each row it covers.

    Not by `row.cells`, which recurses over the rows that a cell is merged across and repeats a cell for each
    column that it says it covers: a file of some kilobytes may say two billions.
    """
    above: dict[int, str] = {}  # texts of the row before, by the first column that they cover
    for row in _inside(table, _ROW):
        if row.find(f"{_W}trPr/{_W}del") is not None:
            continue
        texts: dict[int, str] = {}
        column = row.grid_before
        for cell in _inside(row, _CELL):
            continued = cell.vMerge == "continue"
            text = above.get(column, "") if continued else "\n".join(_blocks(cell)).strip()
            texts[column] = text
            column += cell.grid_span
        yield " | ".join(texts.values())
        above = texts
