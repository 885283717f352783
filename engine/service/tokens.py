"""JSON Web Tokens for administration: RS256 alone, with issuer, audience and end."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from engine.errors import ConfigError
from engine.service.auth import KeyCheck

__all__ = ["AdminCheck", "TokenCheck", "TokenSettings"]

_MAX_TOKEN = 8_192
_LEEWAY = 30  # seconds that clocks may differ by
_REQUIRED = ["exp", "iss", "aud"]


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """`public_key` is PEM text; a token must name exactly this issuer, and this audience among its own."""

    public_key: str = field(repr=False)
    issuer: str
    audience: str


class TokenCheck:
    """Checks bearer tokens against one RSA key.

    Raises:
        ConfigError: the key is no public RSA key in PEM.
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

    async def allows(self, header: str | None) -> bool:
        """Return whether this `Authorization` header holds a good token."""
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or len(token) > _MAX_TOKEN or token.count(".") != 2:
            return False
        return await anyio.to_thread.run_sync(self._is_good, token.strip(), limiter=self._checking)

    def _is_good(self, token: str) -> bool:
        import jwt

        try:
            jwt.decode(
                token,
                self._key,
                algorithms=["RS256"],  # never what the token asks for
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=_LEEWAY,
                options={"require": _REQUIRED},
            )
        except (jwt.PyJWTError, ValueError):
            return False
        return True


class AdminCheck:
    """The admin key, or a token; either opens the routes of administration, neither opens them to nobody."""

    def __init__(self, key_hash: str | None, tokens: TokenSettings | None) -> None:
        self._checks: list[KeyCheck | TokenCheck] = []
        if key_hash:
            self._checks.append(KeyCheck(key_hash))
        if tokens is not None:
            self._checks.append(TokenCheck(tokens))

    @property
    def is_set(self) -> bool:
        """Whether anybody can get in."""
        return bool(self._checks)

    async def allows(self, header: str | None) -> bool:
        """Return whether a request with this `Authorization` header is allowed."""
        for check in self._checks:
            if await check.allows(header):
                return True
        return False
