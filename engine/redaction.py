"""Remove passwords and keys from addresses before they are shown, logged or stored.

Components and their libraries name addresses in errors. An address may have a user and password before the
host, and keys in the query; neither helps to diagnose the error.
"""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

# the user part ends at the last @ before the path, since a password may contain an unescaped @
_USER: Final = re.compile(r"(?<=://)[^\s/?#\"'<>`]+@")
_NAMES: Final = r"[\w.\-%]*(?:key|token|secret|passw|pwd|signature|credential|auth|session|code|sig)[\w.\-%]*"
_QUERY: Final = re.compile(rf"(?i)(?<=[?&;])({_NAMES}=)[^\s&#;\"'<>`]+")
_SHORTEST: Final = 4


def without_credentials(text: str) -> str:
    """Return the text with `***` for users, passwords and keys in its addresses."""
    if "://" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "=" in text and ("?" in text or "&" in text):
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return text


def has_credentials(address: str) -> bool:
    """Return whether an address has a user or a password before its host, or a key in its query."""
    return without_credentials(address) != address


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """Return the text without these secrets; those under four characters are hidden only if quoted."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
        elif secret:
            for quote in "`'\"":
                text = text.replace(f"{quote}{secret}{quote}", f"{quote}{HIDDEN}{quote}")
    return text
