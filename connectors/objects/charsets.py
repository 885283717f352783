"""Decode bytes to text, by declared charset and by content."""

from __future__ import annotations

import codecs
import re
from typing import Final, NamedTuple

UNKNOWN_CHARSET: Final = "the text is not UTF-8, and its charset cannot be guessed; set `charset`"

SAMPLE_BYTES = 64 * 1024
"""Bytes examined to guess a charset, starting at the first byte beyond ASCII."""

# a UTF-32 mark begins with a UTF-16 one, so it is looked for first
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"+/v8-", "utf-7"),
    (b"\x84\x31\x95\x33", "gb18030"),
)

_GUESSES = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "koi8_r", "cp866", "cp932", "euc_jp",
    "cp949", "gb18030", "big5",
)  # fmt: skip

# WHATWG, Encoding Standard: these labels mean Windows' code pages; real Latin-1 would never fail
_WINDOWS = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
    "tis-620": "cp874",
}  # fmt: skip

# Python's text transformations, which are not charsets
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode-escape", "raw-unicode-escape", "undefined"})
_ALIASES = {
    "ebcdic": "cp500", "ibm-1140": "cp1140", "binary": "", "unicode": "utf-16", "ucs-4": "utf-32",
    "x-sjis": "cp932", "windows-31j": "cp932", "windows-949": "cp949", "windows-874": "cp874",
    "x-x-big5": "big5", "cn-big5": "big5", "koi8-ru": "koi8-u", "iso-8859-8-i": "iso-8859-8",
    "iso-8859-8-e": "iso-8859-8", "logical": "iso-8859-8", "visual": "iso-8859-8", "mac": "macintosh",
    "x-mac-roman": "macintosh", "x-mac-cyrillic": "mac-cyrillic", "x-mac-ukrainian": "mac-cyrillic",
}  # fmt: skip

# text with these labels often exceeds their standards (Encoding Standard again)
_SUPERSETS = {
    "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs", "gb2312": "gb18030", "gbk": "gb18030",
}  # fmt: skip
# what cp932 returns for bytes that are not characters
_PRIVATE = re.compile("[\x80-\x9f\ue000-\uf8ff]")

# ordinary text in them contains zero bytes
_WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be")

_SELF_DECLARED = re.compile(
    rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})|<meta[^>]{0,200}?charset\s*=\s*["']?([\w.:-]{1,40})""",
    re.IGNORECASE,
)
_SELF_DECLARED_WITHIN = 2048
_NON_ASCII = re.compile(rb"[\x80-\xff]")
_OF_WINDOWS = re.compile(rb"[\x80-\x9f]")
_ABOVE_ASCII = bytes(range(0x80, 0x100))

_UTF8_PROOF = {"cp1252": 1, "cp1250": 2, "iso8859-2": 2, "iso8859-15": 1}
_UTF8_PROOF_SINGLE, _UTF8_PROOF_MULTI = 4, 8
"""Non-ASCII characters in valid UTF-8 that disprove a declaration: few occur by chance."""


class Text(NamedTuple):
    """Characters, their encoding, how many of them replace invalid bytes, and whether it was guessed."""

    content: str
    encoding: str
    replaced: int = 0
    guessed: bool = False


def known_charset(charset: str | None) -> str | None:
    """Return Python's name of a charset, or None if unknown; Latin-1 means Windows-1252."""
    if charset is None:
        return None
    label = charset.strip().strip("\"'").lower()
    label = _ALIASES.get(label, label)
    # Windows' and DOS's own names: x-cp1251, win-1251, dos-866
    label = re.sub(r"^(?:x-cp|win-|dos-)(\d{3,4})$", r"cp\1", label)
    # IBM's names for EBCDIC, as in its tools: ibm-37, cp-037, ibm_273
    label = re.sub(r"^(?:ibm|cp)[-_ ]0*(\d+)$", lambda match: f"cp{match[1].zfill(3)}", label)
    try:
        found = codecs.lookup(label).name
    except (LookupError, ValueError):
        return None
    if found in _NO_CHARSETS or not _decodes(found):
        return None
    return _WINDOWS.get(found, found)


def _decodes(codec: str) -> bool:
    """Return False for codecs from bytes to bytes, such as `hex`."""
    try:
        b"a".decode(codec, "replace")
    except LookupError:
        return False
    return True


def read_text(data: bytes, charset: str | None, declared: str | None, *, textual: bool) -> Text | None:
    """Return the text, or None if the bytes are not text.

    Args:
        charset: encoding set by the caller, from `known_charset`.
        declared: encoding declared by the store.
        textual: it is text by name or type; otherwise text with invalid bytes or a guessed encoding does not
            count.
    """
    marked = _marked(data, textual=textual)
    charset, declared = charset and widened(data, charset), declared and widened(data, declared)
    if charset is not None and not (marked is not None and marked.encoding == "utf-8"):
        text = _in_charset(data, charset)
        if text is not None:
            return text
    if marked is not None:
        return marked
    misdeclared = declared not in (None, "utf-8") and disproved(data, str(declared))
    if declared is not None and declared != "utf-8" and not misdeclared:
        text = _strictly_text(data, declared) or (
            _nearly(data, declared) if declared in _WIDE and textual else None
        )
        if text is not None:
            return text
    if b"\0" in data:
        return _wide_without_mark(data) if textual else None
    content = _strictly(data, "utf-8")
    if content is not None:
        return Text(content, "utf-8", guessed=declared not in (None, "utf-8"))
    if not textual:
        return None
    nearly = _nearly(data, declared) if declared not in (None, "utf-8") else None
    return mostly_utf8(data) or nearly or _self_declared(data) or _guessed(data)


def widened(data: bytes, charset: str) -> str:
    """Return the vendor's variant of a charset if only that decodes the text: Shift-JIS with `①` is cp932."""
    wider = _SUPERSETS.get(charset)
    if wider is None or any(_strictly(data, one) is not None for one in (charset, "utf-8")):
        return charset
    content = _strictly(data, wider)
    return charset if content is None or _PRIVATE.search(content) else wider


def _marked(data: bytes, *, textual: bool) -> Text | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            content = _strictly(data, encoding)
            if content is None and encoding == "utf-8-sig":
                return mostly_utf8(data[len(mark) :])
            if content is None and textual and encoding in _WIDE:
                return _nearly(data, encoding)
            if content is not None and "\0" not in content:
                return Text(content.removeprefix("\ufeff"), encoding.removesuffix("-sig"))
    return None


def _strictly_text(data: bytes, encoding: str) -> Text | None:
    content = _strictly(data, encoding)
    if content is None or "\0" in content:
        return None
    return Text(content.removeprefix("\ufeff"), encoding)


def _nearly(data: bytes, encoding: str) -> Text | None:
    """Decode in this encoding, allowing a few invalid bytes or a truncated last character."""
    content = data.decode(encoding, "replace")
    replaced = content.count("\ufffd")
    characters = len(content) if encoding in _WIDE else len(content) - len(content.encode("ascii", "ignore"))
    if "\0" in content or characters < 2 or (replaced > 1 and replaced * 20 > characters):
        return None
    return Text(content.removeprefix("\ufeff"), encoding, replaced)


def _wide_without_mark(data: bytes) -> Text | None:
    """Decode undeclared UTF-16: in Latin scripts every other byte is 0."""
    for encoding, zeros, others in (
        ("utf-16-le", data[1::2], data[::2]),
        ("utf-16-be", data[::2], data[1::2]),
    ):
        if zeros.count(0) * 2 > len(zeros) and not others.count(0):
            text = _nearly(data, encoding)
            return text._replace(guessed=True) if text is not None else None
    return None


def _in_charset(data: bytes, charset: str) -> Text | None:
    """Decode in the caller's charset, even if some bytes are invalid."""
    if b"\0" in data and charset not in _WIDE:
        return None
    content = data.decode(charset, "replace")
    if "\0" in content:
        return None
    replaced = content.count("\ufffd")
    if replaced and charset == "utf-8":
        replaced -= data.count(b"\xef\xbf\xbd")
    return Text(content.removeprefix("\ufeff"), charset, replaced)


def disproved(data: bytes, declared: str) -> bool:
    """Return whether the bytes prove to be UTF-8 or ASCII rather than the declared or guessed charset."""
    content = _strictly(data, "utf-8")
    if content is None or b"\0" in data:
        return False
    if not _is_superset_of_ascii(declared):
        return True
    characters = len(content) - _ascii_bytes(data)
    proof = _UTF8_PROOF_SINGLE if _is_single_byte(declared) else _UTF8_PROOF_MULTI
    return characters >= _UTF8_PROOF.get(declared, proof)


def _is_superset_of_ascii(charset: str) -> bool:
    """Return whether ASCII bytes keep their meaning; not so in EBCDIC, UTF-16 and UTF-32."""
    return b"Ab 1".decode(charset, "replace") == "Ab 1"


def _is_single_byte(charset: str) -> bool:
    """Return whether every byte is a character in this charset."""
    return len(b"\xc3\xa4\xc3\xb6".decode(charset, "replace")) == 4


def _ascii_bytes(data: bytes) -> int:
    return len(data.translate(None, _ABOVE_ASCII))


def mostly_utf8(data: bytes) -> Text | None:
    """Decode as UTF-8 with U+FFFD, unless more non-ASCII bytes are invalid than valid."""
    content = data.decode("utf-8", "replace")
    replaced = content.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    valid = len(content) - _ascii_bytes(data) - replaced
    return Text(content, "utf-8", replaced) if replaced <= valid else None


def _self_declared(data: bytes) -> Text | None:
    found = _SELF_DECLARED.search(data[:_SELF_DECLARED_WITHIN])
    charset = known_charset((found[1] or found[2]).decode()) if found else None
    charset = charset and widened(data, charset)
    content = _strictly(data, charset) if charset else None
    return Text(content, charset) if content is not None and charset else None


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeError:
        return None


def _guessed(data: bytes) -> Text | None:
    # imported lazily: it takes 60 ms, and UTF-8 never needs it
    from charset_normalizer import from_bytes

    matches = list(from_bytes(_sample(data), cp_isolation=list(_GUESSES), enable_fallback=False))
    if not matches:
        return None
    least = min(match.chaos for match in matches)
    close = [match for match in matches if match.chaos <= least + 0.01]
    # short Western texts are valid in several code pages, and Windows-1252 is by far the likeliest
    best = max(close, key=lambda match: (match.coherence, "cp1252" in match.could_be_from_charset))
    likeliest = "cp1252" if "cp1252" in best.could_be_from_charset else best.encoding
    if likeliest == "cp1252" and b"\xa4" in data and not _OF_WINDOWS.search(data):
        likeliest = "iso8859-15"  # the euro sign there, and the hardly used ¤ in Windows-1252
    for charset in (likeliest, best.encoding):
        content = _strictly(data, charset)
        if content is not None:
            return Text(content, charset, guessed=True)
    # a few invalid bytes do not make another encoding likelier
    content = data.decode(best.encoding, "replace")
    replaced = content.count("\ufffd")
    if replaced * 20 <= len(_NON_ASCII.findall(data)):
        return Text(content, best.encoding, replaced, guessed=True)
    return None


def _sample(data: bytes) -> bytes:
    """Return the bytes to guess from: around the first non-ASCII bytes, on character boundaries."""
    if len(data) <= SAMPLE_BYTES:
        return data
    first = _NON_ASCII.search(data)
    begin = first.start() if first else 0
    # from the line's beginning: preceding characters belong to the same words
    begin = max(data.rfind(b"\n", max(0, begin - 1024), begin) + 1, begin - 1024, 0)
    sample = data[begin : begin + SAMPLE_BYTES]
    if begin + len(sample) < len(data):
        sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b" ")) + 1] or sample
    return sample
