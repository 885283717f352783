"""Bearer tokens: keys `<hex>.<hexsalt>`, checked against the operator's PBKDF2 hash, and JSON Web Tokens.

The latter are for administration: RS256 only, with issuer, audience and expiry.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from engine.errors import ConfigError

__all__ = ["AdminCheck", "KeyCheck", "TokenCheck", "TokenSettings", "hash_of", "is_hash"]

_ROUNDS = 1_000
_LENGTH = 20
_REMEMBERED = 64
_REMEMBERED_BAD = 1_024
_MAX_TOKEN = 4_096
_MAX_JWT = 8_192
_LEEWAY = 30  # tolerated difference of clocks in seconds
_REQUIRED = ["exp", "iss", "aud"]


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
        if not is_right:
            self._failed[digest] = None
            if len(self._failed) > _REMEMBERED_BAD:
                del self._failed[next(iter(self._failed))]
        elif len(self._passed) < _REMEMBERED:
            self._passed.add(digest)
        return is_right


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """`public_key` is PEM text; a token must have this issuer, and this audience among its own."""

    public_key: str = field(repr=False)
    issuer: str
    audience: str


class TokenCheck:
    """Checks bearer tokens against one RSA key.

    Raises:
        ConfigError: the key is not a public RSA key in PEM format.
    """

    def __init__(self, settings: TokenSettings) -> None:
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            key = load_pem_public_key(settings.public_key.encode())
        except ValueError as error:
            raise ConfigError("the key for tokens is not a public key in PEM format") from error
        if not isinstance(key, RSAPublicKey):
            raise ConfigError("the key for tokens is not an RSA key: RS256 needs one")
        self._key = key
        self._settings = settings
        self._checking = anyio.CapacityLimiter(1)

    async def expiry(self, header: str | None) -> float | None:
        """Return when the token of this `Authorization` header expires, in seconds since 1970.

        Includes the tolerated difference of clocks. None: the header has no valid token.
        """
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or len(token) > _MAX_JWT or token.count(".") != 2:
            return None
        return await anyio.to_thread.run_sync(self._expiry, token.strip(), limiter=self._checking)

    def _expiry(self, token: str) -> float | None:
        import jwt

        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=["RS256"],  # never the algorithm that the token names
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=_LEEWAY,
                options={"require": _REQUIRED},
            )
            return float(claims["exp"]) + _LEEWAY
        except (jwt.PyJWTError, ValueError, OverflowError):
            return None


class AdminCheck:
    """Allows the admin routes to the admin key or a token; without either setting they stay closed."""

    def __init__(self, key_hash: str | None, tokens: TokenSettings | None) -> None:
        self._key = KeyCheck(key_hash) if key_hash else None
        self._tokens = TokenCheck(tokens) if tokens is not None else None

    @property
    def is_set(self) -> bool:
        """Whether any token is configured."""
        return self._key is not None or self._tokens is not None

    async def allows(self, header: str | None) -> bool:
        """Return whether a request with this `Authorization` header is allowed."""
        return await self.expiry(header) is not None

    async def expiry(self, header: str | None) -> float | None:
        """Return when this `Authorization` header stops being allowed, in seconds since 1970.

        The admin key never expires (infinity). None: the header is not allowed.
        """
        if self._key is not None and await self._key.allows(header):
            return math.inf
        return await self._tokens.expiry(header) if self._tokens is not None else None
