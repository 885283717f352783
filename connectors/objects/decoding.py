"""Decode the bytes of an object as text, or encode them as a data URL.

The encoding is determined by, in this order: the caller, a byte order mark, the charset that the store
declares, strict UTF-8, UTF-8 with few invalid bytes (replaced by U+FFFD and counted), the declaration inside
XML or HTML, a guess. Anything else is binary. A declaration that the bytes disprove is ignored. There is no
fallback to Latin-1, which would turn any bytes into "text".

Binary content becomes a marker and a data URL (RFC 2397): `[IMAGE_DATA]data:image/png;base64,…`,
`[PDF_DATA]…`, `[DOC_DATA]…` (Word), `[BINARY_DATA]…` for anything else.
"""

from __future__ import annotations

import base64
from typing import NamedTuple

import anyio.to_thread

from connectors.objects.charsets import Text, known_charset, read_text
from connectors.objects.media_types import (
    DOCX,
    by_content,
    by_suffix,
    charset_of,
    is_text,
    media_type_of,
    without_charset,
)

__all__ = ["Decoded", "decode", "decode_in_turn", "known_charset", "marker_of"]

THREAD_ABOVE = 256 * 1024
"""Minimum size for decoding in a worker thread, in bytes."""


class Decoded(NamedTuple):
    """Decoded content: text, or a marker with a data URL; and the media type without parameters.

    For text also the encoding (Python's name), how many characters replace invalid bytes, and whether the
    encoding was guessed.
    """

    content: str
    content_type: str
    is_binary: bool
    encoding: str | None = None
    replaced: int = 0
    guessed: bool = False


def decode(data: bytes, name: str, declared: str | None = None, charset: str | None = None) -> Decoded:
    """Decode `data` if it is text.

    Args:
        data: the whole content.
        name: key or file name, for its suffix.
        declared: Content-Type header from the store.
        charset: charset of text, overriding declarations; None detects it.
    """
    text = _as_text(data, name, declared, charset)
    if text is not None:
        by_name = by_suffix(name)
        stated = without_charset(declared) if declared else None
        found = next((kind for kind in (by_name, stated) if is_text(kind)), None)
        return Decoded(text.content, found or "text/plain", False, text.encoding, text.replaced, text.guessed)
    media_type = media_type_of(data, name, declared)
    encoded = base64.b64encode(data).decode("ascii")
    return Decoded(f"[{marker_of(media_type)}]data:{media_type};base64,{encoded}", media_type, is_binary=True)


async def decode_in_turn(
    data: bytes, name: str, declared: str | None = None, charset: str | None = None
) -> Decoded:
    """Decode `data`, in a worker thread if it is large."""
    if len(data) <= THREAD_ABOVE:
        return decode(data, name, declared, charset)
    return await anyio.to_thread.run_sync(decode, data, name, declared, charset)


def marker_of(media_type: str) -> str:
    """Return the marker in brackets before a data URL of this type."""
    if media_type.startswith("image/"):
        return "IMAGE_DATA"
    if media_type == "application/pdf":
        return "PDF_DATA"
    if media_type in ("application/msword", DOCX):
        return "DOC_DATA"
    return "BINARY_DATA"


def _as_text(data: bytes, name: str, declared: str | None, charset: str | None) -> Text | None:
    # a PDF is not text even if it is pure ASCII; readers accept one that begins a little later
    if data.startswith(b"%PDF-") or (by_suffix(name) == "application/pdf" and b"%PDF-" in data[:1024]):
        return None
    kind = by_suffix(name) or (without_charset(declared) if declared else None)
    stated = charset_of(declared)
    textual = is_text(kind)
    if not textual and kind is not None:
        textual = is_text(by_content(data, name))  # a web page or rich text named `.xls` or `.doc`
    elif kind is None and (charset or known_charset(stated)):
        # with a charset it is text, unless its bytes show something else
        textual = by_content(data, name) is None
    if not textual:
        charset = stated = None
    return read_text(data, known_charset(charset), known_charset(stated), textual=textual)
