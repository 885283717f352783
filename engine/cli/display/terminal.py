"""Make text of records, keys and servers safe for a terminal."""

from __future__ import annotations

import re
from typing import Final

MAX_LINE: Final = 300  # characters

# C0 except tab and line feed, DEL, C1, and characters that reorder or hide text (CVE-2021-42574)
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def printable(text: str) -> str:
    """Return the text with control characters as escapes, so that no record can control the terminal.

    Tabs and line feeds stay.
    """
    return _CONTROLS.sub(_escape, text)


def one_line(text: str) -> str:
    """Return the beginning of a text as one line, since an error may be a page long."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_LINE else text[:MAX_LINE] + "…"


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
