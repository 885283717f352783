"""Bytes of an object made text, or named as what they are.

A byte order mark decides, then strict UTF-8, then the charset that the store declares, then a guess from a
bounded sample (for what is text by its suffix or type); what is left is binary, and so is everything with
a NUL byte and no mark. There is no fallback to Latin-1: it cannot fail, so it would make "text" of anything.

Binary content becomes a marker and a data URL (RFC 2397): `[IMAGE_DATA]data:image/png;base64,…`,
`[PDF_DATA]…`, `[DOC_DATA]…` (Word), `[BINARY_DATA]…` for all else.
"""

from __future__ import annotations

import base64
import codecs
from typing import NamedTuple

import anyio.to_thread

from connectors.objects.media_types import (
    DOCX,
    by_suffix,
    charset_of,
    is_text,
    media_type_of,
    without_charset,
)

__all__ = ["Decoded", "decode", "decode_in_turn", "known_charset", "marker_of"]

THREAD_ABOVE = 256 * 1024
"""Bytes from which decoding leaves the event loop's thread."""

SAMPLE_BYTES = 64 * 1024
"""How much of a text is looked at to guess its charset."""

# a UTF-32 mark begins with a UTF-16 one, so it is looked for first
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_GUESSES = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "koi8_r", "shift_jis", "euc_jp", "euc_kr",
    "gb18030", "big5",
)  # fmt: skip

# WHATWG, Encoding Standard: these labels mean Windows-1252 on the web, and Latin-1 proper could not fail
_WINDOWS_1252 = frozenset({"iso8859-1", "ascii", "cp1252"})

# Python's transformations of text, which are no charsets
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined", "utf-7"})


class Decoded(NamedTuple):
    """What became of some bytes: text, or a marker with a data URL; and the media type without parameters."""

    content: str
    content_type: str
    is_binary: bool


def decode(data: bytes, name: str, declared: str | None = None, charset: str | None = None) -> Decoded:
    """Make text of `data` if it is text.

    Args:
        data: the whole content.
        name: its key or file name, for the suffix.
        declared: the Content-Type header that the store sent.
        charset: what text is in that is not UTF-8 and comes without a declared charset; None: guess.
    """
    text = _as_text(data, name, declared, charset)
    if text is not None:
        by_name = by_suffix(name)
        stated = without_charset(declared) if declared else None
        found = next((kind for kind in (by_name, stated) if is_text(kind)), None)
        return Decoded(text, found or "text/plain", is_binary=False)
    media_type = media_type_of(data, name, declared)
    encoded = base64.b64encode(data).decode("ascii")
    return Decoded(f"[{marker_of(media_type)}]data:{media_type};base64,{encoded}", media_type, is_binary=True)


async def decode_in_turn(
    data: bytes, name: str, declared: str | None = None, charset: str | None = None
) -> Decoded:
    """The same, in a worker thread when there is much to decode."""
    if len(data) <= THREAD_ABOVE:
        return decode(data, name, declared, charset)
    return await anyio.to_thread.run_sync(decode, data, name, declared, charset)


def marker_of(media_type: str) -> str:
    """The name between the brackets before a data URL of this type."""
    if media_type.startswith("image/"):
        return "IMAGE_DATA"
    if media_type == "application/pdf":
        return "PDF_DATA"
    if media_type in ("application/msword", DOCX):
        return "DOC_DATA"
    return "BINARY_DATA"


def _as_text(data: bytes, name: str, declared: str | None, charset: str | None) -> str | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _strictly(data, encoding)
            if text is not None and "\0" not in text:
                return text
    # a PDF may be pure ASCII and is no text all the same
    if b"\0" in data or data.startswith(b"%PDF-"):
        return None
    text = _strictly(data, "utf-8")
    if text is not None:
        return text
    by_name = by_suffix(name)
    stated = without_charset(declared) if declared else None
    if not is_text(by_name or stated):
        return None
    stated_charset = known_charset(charset_of(declared)) or known_charset(charset)
    text = _strictly(data, stated_charset) if stated_charset else None
    return text if text is not None else _guessed(data)


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    # a LookupError for Python's transformations that are no charsets, such as "hex"
    except (UnicodeError, LookupError):
        return None


def known_charset(charset: str | None) -> str | None:
    """Python's name of a charset, None when there is no such charset; Latin-1 means Windows-1252."""
    if charset is None:
        return None
    try:
        found = codecs.lookup(charset).name
    except LookupError:
        return None
    if found in _NO_CHARSETS:
        return None
    return "cp1252" if found in _WINDOWS_1252 else found


def _guessed(data: bytes) -> str | None:
    # 60 ms of import that UTF-8 never needs
    from charset_normalizer import from_bytes

    sample = data[:SAMPLE_BYTES]
    if len(data) > SAMPLE_BYTES:
        # not in the middle of a character of several bytes
        sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b" ")) + 1] or sample
    matches = list(from_bytes(sample, cp_isolation=list(_GUESSES), enable_fallback=False))
    if not matches:
        return None
    least = min(match.chaos for match in matches)
    close = [match for match in matches if match.chaos <= least + 0.01]
    # short Western texts read equally well in several code pages, and Windows-1252 is by far the likeliest
    best = max(close, key=lambda match: (match.coherence, "cp1252" in match.could_be_from_charset))
    charset = "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding
    text = _strictly(data, charset)
    return text if text is not None else _strictly(data, best.encoding)
