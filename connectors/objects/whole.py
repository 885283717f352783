"""Whole objects as records: `document`, `text` and `binary`."""

from __future__ import annotations

import base64
from functools import partial

import anyio.to_thread

from connectors.objects.charsets import UNKNOWN_CHARSET, known_charset, read_text
from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.decoding import THREAD_ABOVE, Decoded, decode_in_turn
from connectors.objects.media_types import (
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

__all__ = ["decode_whole"]


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
        work = partial(_as_text, data, key, path, content_type, params)
        decoded = work() if len(data) <= THREAD_ABOVE else await anyio.to_thread.run_sync(work)
    else:
        decoded = await decode_in_turn(data, key, content_type, params.known_charset)
    if decoded.replaced and params.strict_text:
        raise RecordError(
            f"{path}: {decoded.replaced:,} characters are not valid {decoded.encoding} (`strict_text`)",
            kind="InvalidText",
        )
    return decoded


def _as_text(data: bytes, key: str, path: str, content_type: str | None, params: ObjectParams) -> Decoded:
    data = _unpacked(data, key, path, params)
    declared = known_charset(charset_of(content_type))
    text = read_text(data, params.known_charset, declared, textual=True)
    if text is None:
        instead = what_instead(data) or ("" if b"\0" in data else f": {UNKNOWN_CHARSET}")
        raise RecordError(f"{path} is not text{instead}", kind="NotText")
    stated = without_charset(content_type) if content_type else None
    found = next((kind for kind in (by_suffix(key), stated) if is_text(kind)), None)
    return Decoded(text.content, found or "text/plain", False, text.encoding, text.replaced, text.guessed)


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
