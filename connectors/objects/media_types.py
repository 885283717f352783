"""Media types by content, by a table of suffixes, or as declared, in this order.

The table is part of the code: `mimetypes` reads files of the system, so results would differ between
machines.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Final

SURE_BYTES = 3
"""Shorter signatures also occur by chance."""

_Places = list[tuple[int, dict[bytes, tuple[bytes, ...]]]]


def has_signature(head: bytes) -> bool:
    """Return whether `puremagic.magic_string` may find a signature of at least `SURE_BYTES`.

    It compares content with each of its 1,400 signatures, which takes longer than fetching a small object.
    Here only those with a matching first byte are compared.
    """
    places = _places()
    if places is None:
        return True
    for start, by_first in places:
        candidates = by_first.get(head[start : start + 1])
        if candidates is not None and head.startswith(candidates, start):
            return True
    return False


@cache
def _places() -> _Places | None:
    """Return the signatures by offset and first byte; None if puremagic stores them differently."""
    try:
        from puremagic.main import magic_footer_array, magic_header_array, multi_part_dict
    except ImportError:
        return None
    found: defaultdict[int, defaultdict[bytes, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    for row in (*magic_header_array, *magic_footer_array):
        signature: bytes = row.byte_match
        # a short one may begin a longer one in several parts
        if len(signature) >= SURE_BYTES or signature in multi_part_dict:
            found[row.offset][signature[:1]].add(signature)
    return [
        (start, {first: tuple(known) for first, known in by_first.items()})
        for start, by_first in found.items()
    ]


OCTET_STREAM = "application/octet-stream"

_OFFICE = "application/vnd.openxmlformats-officedocument"
DOCX = f"{_OFFICE}.wordprocessingml.document"

_BY_SUFFIX = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "cfg": "text/plain",
    "conf": "text/plain",
    "css": "text/css",
    "csv": "text/csv",
    "doc": "application/msword",
    "docx": DOCX,
    "eml": "message/rfc822",
    "gif": "image/gif",
    "gz": "application/gzip",
    "htm": "text/html",
    "html": "text/html",
    "ics": "text/calendar",
    "ini": "text/plain",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "js": "text/javascript",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "log": "text/plain",
    "md": "text/markdown",
    "mht": "message/rfc822",
    "mhtml": "message/rfc822",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "msg": "application/vnd.ms-outlook",
    "ndjson": "application/x-ndjson",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "pdf": "application/pdf",
    "png": "image/png",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": f"{_OFFICE}.presentationml.presentation",
    "properties": "text/plain",
    "py": "text/x-python",
    "rst": "text/x-rst",
    "rtf": "application/rtf",
    "sql": "application/sql",
    "srt": "text/plain",
    "svg": "image/svg+xml",
    "tex": "text/x-tex",
    "text": "text/plain",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "toml": "text/plain",
    "tsv": "text/tab-separated-values",
    "txt": "text/plain",
    "vcf": "text/vcard",
    "vtt": "text/vtt",
    "webp": "image/webp",
    "xls": "application/vnd.ms-excel",
    "xlsm": f"{_OFFICE}.spreadsheetml.sheet",  # with macros, which are not read
    "xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    "xml": "application/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zip": "application/zip",
}
_TEXT_TYPES = frozenset(
    {
        "application/json",
        "application/jsonl",
        "application/rtf",
        "application/sql",
        "application/x-ndjson",
        "application/xml",
        "application/yaml",
        "message/rfc822",
    }
)
_ALIASES = {"image/x-ms-bmp": "image/bmp", "image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg"}

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MEMBERS = {
    b"word/document.xml": DOCX,
    b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet": _BY_SUFFIX["ods"],
    b"xl/workbook.": f"{_OFFICE}.spreadsheetml.sheet",
    b"xl/worksheets/": f"{_OFFICE}.spreadsheetml.sheet",
    b"ppt/presentation.xml": f"{_OFFICE}.presentationml.presentation",
}
_ZIP_SUFFIXES = frozenset({"docx", "ods", "pptx", "xlsm", "xlsx", "zip"})
_OLE_SUFFIXES = frozenset({"doc", "msg", "ppt", "xls"})

_UNPACK = "unpack it first"
NOT_TEXT: Final = {
    b"%PDF-": ("a PDF file", "read it with `format: document`"),
    b"PAR1\x15": ("a Parquet file", "read it with `format: parquet`"),
    b"Obj\x01": ("an Avro file", "convert it first"),
    b"PK\x03\x04": ("a ZIP archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"\x1f\x9d": ("packed by `compress`", _UNPACK),
    b"\x04\x22\x4d\x18": ("packed by LZ4", _UNPACK),
    b"\xff\x06\0\0sNaPpY": ("packed by Snappy", _UNPACK),
}
"""What is often called text by mistake: its first bytes, name and remedy."""
_OF_OFFICE: Final = {
    DOCX: "a Word file: read it with `format: document`",
    "application/x-ole-storage": "an old Office file: read a workbook with `format: xlsx`, others with "
    "`format: document`",
    f"{_OFFICE}.presentationml.presentation": "a presentation: read it with `format: document`",
    **dict.fromkeys(
        (f"{_OFFICE}.spreadsheetml.sheet", _BY_SUFFIX["ods"]),
        "a workbook: read its rows with `format: xlsx`, or its text with `format: document`",
    ),
}

_HEAD = 8192
_SURE = SURE_BYTES / 10  # puremagic's confidence in a signature of this length


def media_type_of(data: bytes, name: str, declared: str | None = None) -> str:
    """Return the media type of binary content; `declared` is its Content-Type header."""
    found = by_content(data, name) or by_suffix(name)
    if found is None and declared:
        found = without_charset(declared)
    return found or OCTET_STREAM


def by_content(data: bytes, name: str = "") -> str | None:
    """Return the media type of the first bytes, or None if unknown.

    `name` decides only between types that share a container (Word and Excel files are both ZIP archives).
    """
    suffix = _suffix(name)
    if data.startswith(_ZIP):
        if suffix in _ZIP_SUFFIXES:
            return _BY_SUFFIX[suffix]
        # member names are uncompressed in the archive's directory
        return next((kind for member, kind in _MEMBERS.items() if member in data), "application/zip")
    if data[4:12] == b"ftypavif":
        return "image/avif"  # otherwise mistaken for a video
    if data.startswith(_OLE):
        return _BY_SUFFIX[suffix] if suffix in _OLE_SUFFIXES else "application/x-ole-storage"
    # imported lazily: it takes 20 ms, and text files never need it
    import puremagic

    head = data[:_HEAD]
    if not has_signature(head):
        return None
    try:
        matches = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return None
    for match in matches:
        found = str(match.mime_type)
        if found and match.confidence >= _SURE:
            return _ALIASES.get(found, found)
    return None


def by_suffix(name: str) -> str | None:
    """Return the media type of a name's suffix."""
    return _BY_SUFFIX.get(_suffix(name))


def is_text(media_type: str | None) -> bool:
    """Return whether content of this type is text."""
    if media_type is None:
        return False
    if media_type.startswith("text/") or media_type.endswith(("+xml", "+json")):
        return True
    return media_type in _TEXT_TYPES


def without_charset(content_type: str) -> str | None:
    """Return the type of a Content-Type header without parameters, or None if there is none.

    `application/octet-stream` and S3's default `binary/octet-stream` count as none.
    """
    bare = content_type.partition(";")[0].strip().lower()
    if "/" not in bare or bare in (OCTET_STREAM, "binary/octet-stream"):
        return None
    return _ALIASES.get(bare, bare)


def charset_of(content_type: str | None) -> str | None:
    """Return the charset of a Content-Type header (RFC 9110, section 8.3.2), in lower case."""
    for parameter in (content_type or "").split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return value.strip().strip('"').lower() or None
    return None


def _suffix(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[2].lower()


def what_instead(head: bytes) -> str:
    """What it is instead, and what to do, as far as that is known."""
    media_type = by_content(head, "")
    if media_type in _OF_OFFICE:
        return f" but {_OF_OFFICE[media_type]}"
    for signature, (kind, remedy) in NOT_TEXT.items():
        if head.startswith(signature):
            return f" but {kind}: {remedy}"
    return f" but {media_type}" if media_type else ""
