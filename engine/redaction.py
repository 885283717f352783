"""Takes passwords and keys out of addresses before anything is shown, logged or stored.

Components name the address that they could not reach, and so do the libraries that they use. A user and a
password stand before the host, keys in the query; neither helps to find out what is wrong.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HIDDEN", "has_credentials", "hide", "without_credentials"]

HIDDEN: Final = "***"

# the user part ends at the last @ before the path: a password may have an @ that was not written as %40
_USER: Final = re.compile(r"(?<=://)[^\s/?#\"'<>`]+@")
_NAMES: Final = r"[\w.\-%]*(?:key|token|secret|passw|pwd|signature|credential|auth|session|code|sig)[\w.\-%]*"
_QUERY: Final = re.compile(rf"(?i)(?<=[?&;])({_NAMES}=)[^\s&#;\"'<>`]+")
_SHORTEST: Final = 4


def without_credentials(text: str) -> str:
    """The text with `***` for users, passwords and keys in the addresses that it names."""
    if "://" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "=" in text and ("?" in text or "&" in text):
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    return text


def has_credentials(address: str) -> bool:
    """Whether an address has a user or a password before its host, or a key in its query."""
    return without_credentials(address) != address


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """The text without these secrets; those of under four characters are hidden where they are quoted."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, HIDDEN).replace(repr(secret)[1:-1], HIDDEN)
        elif secret:
            for quote in "`'\"":
                text = text.replace(f"{quote}{secret}{quote}", f"{quote}{HIDDEN}{quote}")
    return text
