"""Decode blocks of whole lines, detecting the encoding on the way."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from connectors.json_lines import is_utf8
from connectors.objects.charsets import disproved, mostly_utf8, read_text, widened

_UNKNOWN = "unknown"
"""Instead of an encoding: of text that is in none of those that are guessed."""

_MARK = re.compile("^\ufeff", re.MULTILINE)


def has_plain_lines(charset: str) -> bool:
    """Return whether ASCII bytes always are ASCII characters in this charset."""
    # these stateful charsets write other characters with ASCII bytes
    if charset.startswith(("iso2022", "utf-7", "utf_7", "hz")):
        return False
    return b'Ab 1\n,"'.decode(charset, "replace") == 'Ab 1\n,"'


def has_braces_inside(charset: str) -> bool:
    """Whether a brace may be the second byte of another character, as in Shift-JIS, Big5 and GBK."""
    return any("{" not in bytes((lead, ord("{"))).decode(charset, "replace") for lead in range(0x80, 0x100))


class DecodedBlock(NamedTuple):
    """The text of a block, and how many of its characters replace invalid bytes.

    If invalid text is refused (`BlockDecoder.refuses`), lone surrogates replace these bytes.
    """

    text: str
    replaced: int = 0


class BlockDecoder:
    """Decodes blocks of whole lines.

    UTF-8 and ASCII need no decision. The first block that is neither decides for all later ones, as for a
    whole document: by declaration, as UTF-8 with few invalid bytes, or by a guess. A later block of valid
    UTF-8 disproves a guess: a single invalid byte in a block looks like Latin-1. Without a decision, invalid
    text is marked.

    Args:
        charset: charset set by the caller; None detects it.
        declared: charset declared by the store.
        encoding: decision of an earlier block, or "".
        strict: mark invalid bytes instead of replacing them.

    Attributes:
        guessed: the encoding was guessed.
    """

    def __init__(
        self, charset: str | None, declared: str | None, encoding: str = "", *, strict: bool = False
    ) -> None:
        self.encoding = encoding or charset or ""
        self.guessed = False
        self._declared = declared
        self._may_guess = not charset and not declared
        self._strict = strict

    @property
    def is_unknown(self) -> bool:
        """True when the encoding can be neither told nor guessed."""
        return self.encoding == _UNKNOWN

    @property
    def refuses(self) -> bool:
        """True when what is invalid is marked, not replaced."""
        return self._strict or self.is_unknown

    def decode(self, block: bytes) -> DecodedBlock:
        """Decode a block of whole lines."""
        if block.isascii():
            return DecodedBlock(block.decode("ascii"))
        text, replaced = self._decode(block)
        # where files were put together, each may have brought its byte order mark
        return DecodedBlock(_MARK.sub("", text) if "\ufeff" in text else text, replaced)

    def _decode(self, block: bytes) -> tuple[str, int]:
        if self.is_unknown and (is_utf8(block) or mostly_utf8(block) is not None):
            self.encoding = "utf-8"
        if self._may_guess and self._is_disproved(block):
            self.encoding, self.guessed = "", False
            return block.decode(), 0
        if not self.encoding:
            self._decide(block)
        if self.is_unknown:
            return block.decode("utf-8", "surrogateescape"), 0
        encoding = self.encoding
        try:
            return block.decode(encoding), 0
        except UnicodeDecodeError:
            encoding = self.encoding = widened(block, encoding)
            text = block.decode(encoding, "surrogateescape" if self._strict else "replace")
        before = block.count(b"\xef\xbf\xbd") if encoding == "utf-8" else 0
        return text, 0 if self._strict else text.count("\ufffd") - before

    def _is_disproved(self, block: bytes) -> bool:
        """Whether this block shows that the encoding was guessed wrongly, and all is UTF-8."""
        if self.encoding in ("", "utf-8", _UNKNOWN) or not is_utf8(block):
            return False
        return _has_single_bytes(self.encoding) or disproved(block, self.encoding)

    def _decide(self, block: bytes) -> None:
        # zeros would make it look like UTF-16, whose lines cannot be split by bytes
        text = read_text(block.replace(b"\0", b""), None, self._declared, textual=True)
        if text is None or not has_plain_lines(text.encoding):
            self.encoding = _UNKNOWN if text is None else "utf-8"
            return
        self.encoding, self.guessed = text.encoding, text.guessed


@lru_cache(maxsize=64)
def _has_single_bytes(encoding: str) -> bool:
    """Return whether each byte is a character; text in such an encoding is hardly ever valid UTF-8."""
    one, every = b"\xc3\xa9", bytes(range(256))
    return (len(one.decode(encoding, "replace")), len(every.decode(encoding, "replace"))) == (2, 256)
