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
from functools import partial
from typing import NamedTuple

import anyio.to_thread

from connectors.objects.charsets import UNKNOWN_CHARSET, Text, known_charset, read_text
from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.media_types import (
    DOCX,
    by_content,
    by_suffix,
    charset_of,
    is_text,
    media_type_of,
    what_instead,
    without_charset,
)
from connectors.objects.params import ObjectParams
from connectors.objects.unpacking import packed_kind, unpack_whole
from engine.errors import RecordError

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
        return _decoded(text, name, declared)
    media_type = media_type_of(data, name, declared)
    encoded = base64.b64encode(data).decode("ascii")
    return Decoded(f"[{marker_of(media_type)}]data:{media_type};base64,{encoded}", media_type, is_binary=True)


def _decoded(text: Text, name: str, declared: str | None) -> Decoded:
    """Return a text with its media type: that of the name, or else the declared one."""
    stated = without_charset(declared) if declared else None
    found = next((kind for kind in (by_suffix(name), stated) if is_text(kind)), None)
    return Decoded(text.content, found or "text/plain", False, text.encoding, text.replaced, text.guessed)


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


async def decode_whole(
    data: bytes, key: str, path: str, content_type: str | None, params: ObjectParams
) -> Decoded:
    """Decode the content of an object according to its format.

    `document`: text, or a marker and data URL. `text`: text, unpacked if compressed. `binary`: base64.

    Args:
        path: address, for messages.
        content_type: Content-Type declared by the store.

    Raises:
        RecordError: `InvalidText`, `NotText`, `ObjectDamaged` or `ObjectTooLarge`.
    """
    if params.format == "binary":
        media_type = media_type_of(data, key, content_type)
        return Decoded(base64.b64encode(data).decode("ascii"), media_type, is_binary=True)
    if params.format == "text":
        work = partial(_text_of, data, key, path, content_type, params)
        decoded = work() if len(data) <= THREAD_ABOVE else await anyio.to_thread.run_sync(work)
    else:
        decoded = await decode_in_turn(data, key, content_type, params.known_charset)
    if decoded.replaced and params.strict_text:
        raise RecordError(
            f"{path}: {decoded.replaced:,} characters are not valid {decoded.encoding} (`strict_text`)",
            kind="InvalidText",
        )
    return decoded


def _text_of(data: bytes, key: str, path: str, content_type: str | None, params: ObjectParams) -> Decoded:
    data = _unpacked(data, key, path, params)
    declared = known_charset(charset_of(content_type))
    text = read_text(data, params.known_charset, declared, textual=True)
    if text is None:
        instead = what_instead(data) or ("" if b"\0" in data else f": {UNKNOWN_CHARSET}")
        raise RecordError(f"{path} is not text{instead}", kind="NotText")
    return _decoded(text, key, content_type)


def _unpacked(data: bytes, key: str, path: str, params: ObjectParams) -> bytes:
    limit = min(params.max_object_bytes, params.max_unpacked_bytes)
    try:
        kind = packed_kind(data[:65536], key, None)
        if kind is None:
            return data
        return unpack_whole(data, kind, max_bytes=limit, max_ratio=params.max_unpacked_ratio)
    except PackedError as error:
        raise RecordError(f"{path}: {error}", kind="ObjectDamaged") from error
    except UnpackedTooLargeError as error:
        raise RecordError(f"{path}: {error} (`max_object_bytes`)", kind="ObjectTooLarge") from error
