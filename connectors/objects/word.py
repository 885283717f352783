"""Read the text of Word files (docx) with python-docx."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from engine.errors import RecordError

if TYPE_CHECKING:
    from docx.document import Document
    from docx.oxml.xmlchemy import BaseOxmlElement

MAX_UNPACKED = 64 * 1024 * 1024
"""Maximum total size of an archive's members; more is an archive bomb or a video."""

_FORMS: Final = [
    f"application/vnd.{kind}.main+xml"
    for kind in (
        "ms-word.document.macroEnabled",
        "ms-word.template.macroEnabledTemplate",
        "openxmlformats-officedocument.wordprocessingml.template",
    )
]
"""Content types of documents with macros and of templates, which have the same format."""

_STRICT: Final = b"http://purl.oclc.org/ooxml/"
_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_RELATIONS: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_MC: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_PARAGRAPH, _TABLE, _ROW, _CELL = f"{_W}p", f"{_W}tbl", f"{_W}tr", f"{_W}tc"
_BREAK, _TEXT_BOX, _ALTERNATIVES = f"{_W}br", f"{_W}txbxContent", f"{_MC}AlternateContent"
_TEXTS: Final = {f"{_W}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"}
_MARKS: Final = {f"{_W}tab": "\t", f"{_W}ptab": "\t", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_LEFT_OUT: Final = {f"{_W}{name}" for name in ("del", "moveFrom", "pPr", "rPr", "tblPr", "tblGrid", "rt")}
"""Invisible elements: tracked deletions, formats, and pronunciations."""


_NOTES: Final = {f"{_W}footnoteReference": "", f"{_W}endnoteReference": "e", f"{_W}commentReference": "c"}
"""Elements that refer to notes, and the prefixes of their marks."""


def read_docx(data: bytes, name: str, max_text: int) -> str:
    """Read the visible text of a Word file, one line per table row.

    In this order: headers, the text with its tables and text boxes, footers, footnotes, endnotes, comments.
    Repeated headers and footers are omitted. A note has a mark where the text refers to it, and its line
    begins with that mark: `[^1]`, `[^e1]` for endnotes, `[^c1]` and the author for comments. Notes without a
    reference are omitted.

    Reading stops soon after `max_text` characters, so a longer result means that the document is longer.

    Raises:
        RecordError: kind `CorruptDocument`, or `DocumentTooLarge` (unpacked size).
    """
    from docx.opc.exceptions import OpcError

    try:
        check_unpacked_size(data, name)
        document = _opened(data)
        return joined_lines(_Reader(document).lines(), max_text)
    # python-docx passes on errors of its layers: archive, package, XML (a SyntaxError), missing parts
    except (zipfile.BadZipFile, OpcError, SyntaxError, KeyError, ValueError, EOFError, zlib.error) as error:
        raise RecordError(f"{name}: cannot read the Word file: {error}", kind="CorruptDocument") from error


def _opened(data: bytes) -> Document:
    """Open the document of a file, which may have macros or be a template."""
    from docx.opc.part import PartFactory
    from docx.package import Package
    from docx.parts.document import DocumentPart

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in {"_rels/.rels", "word/document.xml"}.intersection(archive.namelist()):
            with archive.open(member) as file:
                if _STRICT in file.read(4096):
                    raise ValueError("it is Strict Open XML; save it as an ordinary Word document (.docx)")
    PartFactory.part_type_for.update(dict.fromkeys(_FORMS, DocumentPart))
    part = Package.open(io.BytesIO(data)).main_document_part
    if not isinstance(part, DocumentPart):
        raise ValueError("its main part is not that of a Word document")
    document: Document = part.document
    return document


def check_unpacked_size(data: bytes, name: str) -> None:
    """Refuse an archive bomb. Raises RecordError of kind `DocumentTooLarge`, or `zipfile.BadZipFile`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > MAX_UNPACKED:
        message = f"{name}: it unpacks to {unpacked:,} bytes, more than {MAX_UNPACKED:,}"
        raise RecordError(message, kind="DocumentTooLarge")


def joined_lines(lines: Iterator[str], max_text: int) -> str:
    """Join lines, stopping soon after `max_text` characters."""
    kept: list[str] = []
    length = 0
    for line in lines:
        kept.append(line)
        length += len(line) + 1
        if length > max_text:
            break
    return "\n".join(kept).strip("\n")


class _Reader:
    """Reads one document.

    Attributes:
        marks: marks of referenced notes, by kind of reference and note id.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self.marks: dict[tuple[str, str], str] = {}
        self._counts: Counter[str] = Counter()

    def lines(self) -> Iterator[str]:
        """Yield the lines of the document."""
        yield from self._margins("header")
        yield from self.blocks(self._document.element.body)
        yield from self._margins("footer")
        for reference in _NOTES:
            yield from self._notes(reference)

    def _margins(self, place: str) -> Iterator[str]:
        """Yield the headers or footers of the sections, each once."""
        seen: set[str] = set()
        for section in self._document.sections:
            margins = [getattr(section, place)]
            if section.different_first_page_header_footer:
                margins.insert(0, getattr(section, f"first_page_{place}"))
            if self._document.settings.odd_and_even_pages_header_footer:
                margins.append(getattr(section, f"even_page_{place}"))
            for margin in margins:
                lines = [] if margin.is_linked_to_previous else list(self.blocks(margin._element))
                if (text := "\n".join(filter(None, lines))) and text not in seen:
                    seen.add(text)
                    yield text

    def _notes(self, reference: str) -> Iterator[str]:
        """Yield the referenced notes of a kind, in the order of their marks."""
        from docx.oxml import parse_xml

        relation = f"{_RELATIONS}/{reference.removeprefix(_W).removesuffix('Reference')}s"
        marks = {id_: mark for (kind, id_), mark in self.marks.items() if kind == reference}
        if not marks:
            return
        notes: dict[str, BaseOxmlElement] = {}
        for rel in self._document.part.rels.values():
            if rel.reltype == relation and not rel.is_external:
                notes |= {note.get(f"{_W}id"): note for note in parse_xml(rel.target_part.blob)}
        for id_, mark in marks.items():
            if id_ in notes:
                author = notes[id_].get(f"{_W}author")
                text = "\n".join(self.blocks(notes[id_])).strip()
                yield f"{mark}: {author}: {text}" if author else f"{mark}: {text}"

    def blocks(self, parent: BaseOxmlElement) -> Iterator[str]:
        """Yield the lines of the paragraphs and tables below an element.

        They may be nested in content controls or tracked insertions, where python-docx does not look.
        """
        for child in parent:
            if child.tag == _PARAGRAPH:
                pieces: list[str] = []
                boxes: list[BaseOxmlElement] = []
                self._inline(child, pieces, boxes)
                yield "".join(pieces)
                for box in boxes:
                    yield from self.blocks(box)
            elif child.tag == _TABLE:
                yield from self._rows(child)
            elif child.tag not in _LEFT_OUT:
                yield from self.blocks(_shown(child))

    def _inline(self, parent: BaseOxmlElement, pieces: list[str], boxes: list[BaseOxmlElement]) -> None:
        """Collect the text below an element, and the text boxes anchored there."""
        for child in parent:
            tag = child.tag
            if tag in _TEXTS:
                pieces.append(child.text or "")
            elif tag in _MARKS:
                pieces.append(_MARKS[tag])
            elif tag in DRAWN:
                pieces.append(DRAWN[tag](child))
            elif tag == _BREAK:
                pieces.append("\n" if child.get(f"{_W}type", "textWrapping") == "textWrapping" else "")
            elif tag in _NOTES:
                pieces.append(self._mark(tag, child.get(f"{_W}id", "")))
            elif tag == _TEXT_BOX:
                boxes.append(child)
            elif tag not in _LEFT_OUT:
                self._inline(_shown(child), pieces, boxes)

    def _mark(self, reference: str, note: str) -> str:
        if (reference, note) not in self.marks:
            self._counts[reference] += 1
            self.marks[reference, note] = f"[^{_NOTES[reference]}{self._counts[reference]}]"
        return self.marks[reference, note]

    def _rows(self, table: BaseOxmlElement) -> Iterator[str]:
        """Yield a line per row. A merged cell appears once per line, in each row that it covers.

        `row.cells` is not used: it recurses over merged rows and repeats a cell for each column that it
        claims to span, which may be two billion in a file of a few kilobytes.
        """
        above: dict[int, str] = {}  # texts of the previous row, by the first column that they cover
        for row in _inside(table, _ROW):
            if row.find(f"{_W}trPr/{_W}del") is not None:
                continue
            texts: dict[int, str] = {}
            column = row.grid_before
            for cell in _inside(row, _CELL):
                continued = cell.vMerge == "continue"
                text = above.get(column, "") if continued else "\n".join(self.blocks(cell)).strip()
                texts[column] = text
                column += cell.grid_span
            yield " | ".join(texts.values())
            above = texts


def _shown(element: BaseOxmlElement) -> BaseOxmlElement:
    """Return the element, or the first of its alternatives for newer and older programs."""
    return element[0] if element.tag == _ALTERNATIVES and len(element) else element


def _inside(parent: BaseOxmlElement, tag: str) -> Iterator[Any]:
    """Yield the rows of a table, or the cells of a row, including those in content controls."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag not in _LEFT_OUT:
            yield from _inside(child, tag)


_PRIVATE: Final = 0xF000
"""Where Word puts the characters of these fonts."""

_OFF: Final = ("0", "false", "off")


def _of(codes: bytes, characters: str) -> dict[int, str]:
    return dict(zip(codes, characters, strict=True))


_FONTS: Final[Mapping[str, Mapping[int, str]]] = {
    "wingdings": _of(b"\x6f\x71\x72\xa7\xa8\xe0\xfb\xfc\xfd\xfe", "☐☐☐▪☐→✗✓☒☑"),
    "wingdings 2": _of(b"\x4f\x50\x51\x52\x53\x54\xa3", "✗✓☒☑☒☒☐"),
    "symbol": _of(b"abcdefghijklmnopqrstuvwxyz", "αβχδεφγηιϕκλμνοπθρστυϖωξψζ")
    | _of(b"DFGLPQSWXY\xa3\xae\xb0\xb1\xb3\xb4\xb7\xb9\xbb\xd7", "ΔΦΓΛΠΘΣΩΞΨ≤→°±≥×•≠≈⋅"),  # noqa: RUF001
}
"""Boxes of forms, Greek letters, and signs of medicine and mathematics."""


def _symbol(element: BaseOxmlElement) -> str:
    """A character of a font of symbols; nothing for one that is not known."""
    try:
        code = int(element.get(f"{_W}char", ""), 16)
    except ValueError:
        return ""
    known = _FONTS.get(element.get(f"{_W}font", "").casefold(), {})
    if code >= _PRIVATE:
        return known.get(code - _PRIVATE, "")
    return known.get(code) or (chr(code) if 0x20 <= code < 0xD800 else "")


def _tick_box(element: BaseOxmlElement) -> str:
    """A box, ticked or not."""
    state = _first(element, "checked", "default")
    return "☐ " if state is None or state.get(f"{_W}val", "1") in _OFF else "☒ "


def _choice(element: BaseOxmlElement) -> str:
    """What was chosen from a list."""
    entries = element.findall(f"{_W}listEntry")
    chosen = _first(element, "result", "default")
    number = chosen.get(f"{_W}val", "0") if chosen is not None else "0"
    found = entries[int(number)] if number.isdecimal() and int(number) < len(entries) else None
    return "" if found is None else found.get(f"{_W}val", "")


def _first(element: BaseOxmlElement, *names: str) -> BaseOxmlElement | None:
    return next((found for name in names if (found := element.find(f"{_W}{name}")) is not None), None)


DRAWN: Final[Mapping[str, Callable[[BaseOxmlElement], str]]] = {
    f"{_W}sym": _symbol,
    f"{_W}checkBox": _tick_box,
    f"{_W}ddList": _choice,
}
"""What Word draws where there is no text, by tag: characters of fonts of symbols, and fields of old forms."""
