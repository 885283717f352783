"""Text of Word files (docx), by python-docx."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.errors import RecordError

if TYPE_CHECKING:
    from docx.document import Document
    from docx.table import Table

__all__ = ["read_docx"]

MAX_UNPACKED = 64 * 1024 * 1024
"""Bytes of all members of the archive together; more is an archive bomb or a film."""


def read_docx(data: bytes, name: str, max_text: int) -> str:
    """The header, paragraphs and tables of a Word file in document order; a table row is one line.

    Reading stops soon after `max_text` characters, so a longer answer means that there was more.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (unpacked size).
    """
    import docx
    from docx.opc.exceptions import OpcError

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED:
            raise RecordError(
                f"{name}: it unpacks to {unpacked:,} bytes, more than {MAX_UNPACKED:,}",
                kind="DocumentTooLarge",
            )
        document = docx.Document(io.BytesIO(data))
        return _joined(_lines(document), max_text)
    # python-docx lets the errors of its layers through: archive, package, XML (a SyntaxError), missing parts
    except (zipfile.BadZipFile, OpcError, SyntaxError, KeyError, ValueError, EOFError, zlib.error) as error:
        raise RecordError(f"{name}: cannot read the Word file: {error}", kind="CorruptDocument") from error


def _joined(lines: Iterator[str], max_text: int) -> str:
    kept: list[str] = []
    length = 0
    for line in lines:
        kept.append(line)
        length += len(line) + 1
        if length > max_text:
            break
    return "\n".join(kept).strip("\n")


def _lines(document: Document) -> Iterator[str]:
    from docx.table import Table

    if document.sections:
        yield from (paragraph.text for paragraph in document.sections[0].header.paragraphs if paragraph.text)
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            yield from _rows(block)
        else:
            yield block.text


def _rows(table: Table) -> Iterator[str]:
    for row in table.rows:
        cells: list[str] = []
        previous = None
        for cell in row.cells:
            # a merged cell stands in the row once for each column it covers
            if cell._tc is not previous:
                cells.append(cell.text.strip())
            previous = cell._tc
        yield " | ".join(cells)
