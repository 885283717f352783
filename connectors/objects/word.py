"""Read the text of Word files (docx) with python-docx."""

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

__all__ = ["MAX_UNPACKED", "check_unpacked_size", "joined_lines", "read_docx"]

MAX_UNPACKED = 64 * 1024 * 1024
"""Bytes of all members of the archive together; more is an archive bomb or a film."""


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
    from docx.table import Table

    if document.sections:
        yield from (paragraph.text for paragraph in document.sections[0].header.paragraphs if paragraph.text)
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            yield from _rows(block)
        else:
            yield block.text


def _rows(table: Table) -> Iterator[str]:
    """A line for each row. A merged cell stands once in a line, and in the line of each row it covers.

    Not by `row.cells`, which recurses over the rows that a cell is merged across and repeats a cell for each
    column that it says it covers: a file of some kilobytes may say two billions.
    """
    from docx.table import _Cell

    above: dict[int, str] = {}  # texts of the row before, by the first column that they cover
    for row in table._tbl.tr_lst:
        texts: dict[int, str] = {}
        column = row.grid_before
        for cell in row.tc_lst:
            continued = cell.vMerge == "continue"
            text = above.get(column, "") if continued else _Cell(cell, table).text.strip()
            texts[column] = text
            column += cell.grid_span
        yield " | ".join(texts.values())
        above = texts
