"""API keys: check a bearer token `<hex>.<hexsalt>` against the operator's PBKDF2 hash."""

from __future__ import annotations

import hashlib
import hmac
import re

import anyio
import anyio.to_thread

__all__ = ["KeyCheck", "hash_of", "is_hash"]

_ROUNDS = 1_000
_LENGTH = 20
_REMEMBERED = 64
_REMEMBERED_BAD = 1_024
_MAX_TOKEN = 4_096


def hash_of(token: str) -> str | None:
    """Return the hex hash of a token `<hex>.<hexsalt>`, or None if malformed. The salt counts as text."""
    secret, dot, salt = token.partition(".")
    if not (secret and dot and salt):
        return None
    return hashlib.pbkdf2_hmac("sha256", secret.encode(), salt.encode(), _ROUNDS, _LENGTH).hex()


def is_hash(text: str) -> bool:
    """Return whether a token could have this hash, ignoring surrounding blanks and case."""
    return re.fullmatch(rf"[0-9a-f]{{{2 * _LENGTH}}}", text.strip().lower()) is not None


class KeyCheck:
    """Checks `Authorization` headers against a key hash; without one everything is allowed.

    Digests of headers, valid and invalid, are cached, so the hash (about 0.5 ms) is computed once for each;
    this happens in a thread, one at a time, so that guessing delays no other client.
    """

    def __init__(self, key_hash: str | None) -> None:
        self._key_hash = key_hash.strip().lower() if key_hash else None
        self._passed: set[bytes] = set()
        self._failed: dict[bytes, None] = {}
        self._hashing = anyio.CapacityLimiter(1)

    async def allows(self, header: str | None) -> bool:
        """Return whether a request with this `Authorization` header is allowed."""
        if self._key_hash is None:
            return True
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or len(token) > _MAX_TOKEN:
            return False
        digest = hashlib.sha256(token.encode()).digest()
        if digest in self._passed:
            return True
        if digest in self._failed:
            return False
        found = await anyio.to_thread.run_sync(hash_of, token.strip(), limiter=self._hashing)
        is_right = found is not None and hmac.compare_digest(found, self._key_hash)
        self._remember(digest, is_right=is_right)
        return is_right

    def _remember(self, digest: bytes, *, is_right: bool) -> None:
        if is_right:
            if len(self._passed) < _REMEMBERED:
                self._passed.add(digest)
            return
        self._failed[digest] = None
        if len(self._failed) > _REMEMBERED_BAD:
            del self._failed[next(iter(self._failed))]
