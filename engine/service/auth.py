"""API keys: a bearer token `<hex>.<hexsalt>` against the PBKDF2 hash that the operator has set."""

from __future__ import annotations

import hashlib
import hmac
import re

__all__ = ["KeyCheck", "hash_of", "is_hash"]

_ROUNDS = 1_000
_LENGTH = 20
_REMEMBERED = 64


def hash_of(token: str) -> str | None:
    """The hex hash of a token `<hex>.<hexsalt>`, None when it has not that form. The salt counts as text."""
    secret, dot, salt = token.partition(".")
    if not (secret and dot and salt):
        return None
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), salt.encode(), _ROUNDS, _LENGTH).hex()


def is_hash(text: str) -> bool:
    """Whether some token could have this hash; blanks around it and capitals do not matter."""
    return re.fullmatch(rf"[0-9a-f]{{{2 * _LENGTH}}}", text.strip().lower()) is not None


class KeyCheck:
    """Checks `Authorization` headers against one key hash; without a hash everything is allowed.

    Headers that passed are remembered, so the hash (some 0.5 ms) is not computed for every request.
    """

    def __init__(self, key_hash: str | None) -> None:
        self._key_hash = key_hash.strip().lower() if key_hash else None
        self._passed: set[bytes] = set()

    def allows(self, header: str | None) -> bool:
        """Whether a request with this `Authorization` header may go on."""
        if self._key_hash is None:
            return True
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer":
            return False
        digest = hashlib.sha256(token.encode()).digest()
        if digest in self._passed:
            return True
        found = hash_of(token.strip())
        if found is None or not hmac.compare_digest(found, self._key_hash):
            return False
        if len(self._passed) < _REMEMBERED:
            self._passed.add(digest)
        return True
