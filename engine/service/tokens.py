"""JSON Web Tokens for administration: RS256 only, with issuer, audience and expiry."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from engine.errors import ConfigError
from engine.service.auth import KeyCheck

__all__ = ["AdminCheck", "TokenCheck", "TokenSettings"]

_MAX_TOKEN = 8_192
_LEEWAY = 30  # tolerated difference of clocks in seconds
_REQUIRED = ["exp", "iss", "aud"]


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
        if scheme.lower() != "bearer" or len(token) > _MAX_TOKEN or token.count(".") != 2:
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
