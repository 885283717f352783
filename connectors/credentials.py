"""Tokens, keys and headers of connections, checked before a request is made."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SCHEME: Final = re.compile(r"\A\s*bearer\s+", re.IGNORECASE)
_FRAMING: Final = ("content-length", "content-encoding", "transfer-encoding")


def _copied(token: SecretStr) -> SecretStr:
    """Strip white space and a leading `Bearer` from a copied token."""
    text = _SCHEME.sub("", token.get_secret_value(), count=1).strip()
    if not _fits(text):
        raise ValueError(
            "has a character that no HTTP header can carry, such as a curly quote or a line break; copy it "
            "again"
        )
    return SecretStr(text)


def _checked(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if name.lower() in _FRAMING:
            raise ValueError(f"the header {name!r} follows from the body of each request; remove it")
        if not _HEADER_NAME.fullmatch(name) or not _fits(value.get_secret_value()):
            raise ValueError(f"the header {name!r} has a character that no HTTP header can carry")
    return headers


def _fits(text: str) -> bool:
    return text.isascii() and text.isprintable()


Token = Annotated[SecretStr, AfterValidator(_copied)]
"""A bearer token or API key, as it is copied from somewhere."""

Headers = Annotated[dict[str, SecretStr], AfterValidator(_checked)]
"""Additional headers of every request."""
