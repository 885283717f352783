"""Small Word and PDF files that consume all time and memory of a naive reader."""

from __future__ import annotations

import io
import zipfile
import zlib

__all__ = ["hostile_pdfs", "hostile_word_files", "merged_down", "slow_pdf", "word_file"]

_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
    'wordprocessingml.document.main+xml"/></Types>'
)
_RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/'
    'officeDocument" Target="word/document.xml"/></Relationships>'
)
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def word_file(body: str, doctype: str = "") -> bytes:
    """A Word file of this body."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", _TYPES)
        archive.writestr("_rels/.rels", _RELATIONS)
        document = f'<w:document xmlns:w="{_WORD}"><w:body>{body}</w:body></w:document>'
        archive.writestr("word/document.xml", f'<?xml version="1.0"?>{doctype}{document}')
    return buffer.getvalue()


def _paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def _cell(properties: str, text: str = "x") -> str:
    return f"<w:tr><w:tc><w:tcPr>{properties}</w:tcPr>{_paragraph(text)}</w:tc></w:tr>"


def _table(rows: str) -> str:
    return f"<w:tbl><w:tblPr/><w:tblGrid><w:gridCol/></w:tblGrid>{rows}</w:tbl>"


def merged_down(rows: int) -> bytes:
    """A table with one cell that is merged over all its rows."""
    first = _cell('<w:vMerge w:val="restart"/>', "merged")
    return word_file(_table(first + _cell("<w:vMerge/>", "") * (rows - 1)))


def hostile_word_files() -> dict[str, bytes]:
    """By name; none is larger than 100 KB."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    return {
        "a cell of two billion columns": word_file(_table(_cell('<w:gridSpan w:val="2000000000"/>'))),
        "wide cells in many rows": word_file(_table(_cell('<w:gridSpan w:val="100000"/>') * 300)),
        "a cell of no number of columns": word_file(_table(_cell('<w:gridSpan w:val="many"/>'))),
        "a cell merged over all rows": merged_down(6000),
        "entities of entities": word_file(_paragraph("&e9;"), f'<!DOCTYPE x [<!ENTITY e0 "lol">{entities}]>'),
        "an entity that is a file": word_file(
            _paragraph("&e;"), '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
        ),
        "paragraphs in paragraphs": word_file("<w:p>" * 20_000 + "</w:p>" * 20_000),
        "tables in tables": word_file("<w:tbl><w:tr><w:tc>" * 2000 + "</w:tc></w:tr></w:tbl>" * 2000),
        "millions of paragraphs": word_file("<w:p/>" * 6_000_000),
        "more than may be unpacked": word_file(" " * 70_000_000),
    }


def _packed(*parts: tuple[bytes, int]) -> bytes:
    """What `zlib.compress` makes of these parts, each so many times over, without packing one again."""
    packed, check = b"\x78\xda", 1
    for part, times in parts:
        packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
        # behind a full flush nothing refers to what is before it
        packed += (packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)) * times
        for _ in range(times):
            check = zlib.adler32(part, check)
    return packed + b"\x03\x00" + check.to_bytes(4, "big")


def _stream(*parts: bytes | tuple[bytes, int]) -> bytes:
    packed = _packed(*((part, 1) if isinstance(part, bytes) else part for part in parts))
    return b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(packed) + packed + b"\nendstream"


def _pdf(content: bytes, *, media: bytes = b"[0 0 612 792]", pages: int = 1) -> bytes:
    kids = b" ".join([b"3 0 R"] * pages)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [" + kids + b"] /Count %d >>" % pages,
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> /MediaBox "
        + media
        + b" >>",
        content,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.7\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n" % number + one + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size + table
    return out + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (size, out.index(b"xref"))


LINE = b"0 0 m 600 700 l S "


def slow_pdf() -> bytes:
    """A page of three million lines."""
    return _pdf(_stream((LINE * 3_000, 1_000)))


def hostile_pdfs() -> dict[str, bytes]:
    """By name; none is larger than 1 MB."""
    texts = (b"(aaaaaaaaaa) Tj " * 3_000, 1_000)
    return {
        "millions of texts": _pdf(_stream(b"BT /F 12 Tf 72 700 Td ", texts, b"ET")),
        "millions of lines": slow_pdf(),
        "a stream of a gigabyte": _pdf(_stream((b" " * (1 << 22), 1 << 8))),
        "an endless page": _pdf(_stream(LINE), media=b"[0 0 1e30 1e30]"),
        "a page without height": _pdf(_stream(LINE), media=b"[0 0 14400 0.0001]"),
        "a page that is no number": _pdf(_stream(LINE), media=b"[100 100 -50 nan]"),
        "many scans": _pdf(_stream(LINE), pages=100),
        "more pages than allowed": _pdf(_stream(b"x"), pages=101),
        "nothing but a header": b"%PDF-1.7",
        "cut off": _pdf(_stream(LINE))[:300],
    }
