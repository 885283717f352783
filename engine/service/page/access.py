"""Access control of the page: sessions in a cookie, and tokens against forged requests.

Without keys every client of the service may do everything, as with its other routes; the guard admits only
names and origins of this machine. A form must still carry the token that only our own pages have.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

COOKIE = "odw_session"
LIFETIME = 12 * 3600
_MAX_SESSIONS = 1_000
_OPEN = "open"


@dataclass(frozen=True, slots=True)
class Roles:
    """Permissions of a visitor: see everything, change data, start and end runs."""

    read: bool
    write: bool
    admin: bool


@dataclass(slots=True)
class Access:
    """Sessions of one service; they end with it. A session maps each role to its expiry."""

    context: ServiceContext
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _sessions: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def has_keys(self) -> bool:
        """Whether anything needs a login."""
        settings = self.context.settings
        has_admin = self.context.admin_key.is_set
        return bool(settings.ingest_api_key or settings.consumption_api_key or has_admin)

    def roles(self, request: Request) -> Roles:
        """Return the visitor's roles. An unset key protects nothing; the admin key grants everything."""
        settings = self.context.settings
        held = self._held(request)
        is_admin = "admin" in held
        read = not settings.consumption_api_key or is_admin or "read" in held
        write = not settings.ingest_api_key or is_admin or "write" in held
        admin = is_admin if self.context.admin_key.is_set else read and write
        return Roles(read, read and write, read and admin)

    async def log_in(self, request: Request, token: str) -> str | None:
        """Start a session with the visitor's roles and those of this token; None if it grants none.

        A role expires after `LIFETIME`, and that of a JSON Web Token no later than the token.
        """
        context, settings = self.context, self.context.settings
        header = f"Bearer {token.strip()}"
        seconds: dict[str, float] = {}
        if settings.consumption_api_key and await context.consumption_key.allows(header):
            seconds["read"] = LIFETIME
        if settings.ingest_api_key and await context.ingest_key.allows(header):
            seconds["write"] = LIFETIME
        if (expiry := await context.admin_key.expiry(header)) is not None:
            seconds["admin"] = min(LIFETIME, expiry - time.time())
        if not seconds:
            return None
        now = time.monotonic()
        held = self._held(request)
        self.log_out(request)
        self._forget_old()
        name = secrets.token_urlsafe(32)
        self._sessions[name] = held | {role: now + left for role, left in seconds.items()}
        return name

    def log_out(self, request: Request) -> None:
        """End the visitor's session."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def token(self, request: Request) -> str:
        """Return the token that a form of this visitor must carry."""
        name = request.cookies.get(COOKIE, "")
        who = name if name in self._sessions else _OPEN
        return hmac.new(self._secret, who.encode(), hashlib.sha256).hexdigest()

    def is_own(self, request: Request, token: str) -> bool:
        """Return whether a form has the token of a page that was rendered for this visitor."""
        return hmac.compare_digest(self.token(request).encode(), token.encode("utf-8", "replace"))

    @staticmethod
    def is_foreign(request: Request) -> bool:
        """Return whether a form comes from a page of another host.

        A proxy reports the host of its pages in a header, which no form can make a browser send.
        """
        origin = request.headers.get("origin")
        hosts = (request.headers.get("host"), request.headers.get("x-forwarded-host"))
        return origin is not None and origin.partition("://")[2] not in hosts

    def _held(self, request: Request) -> dict[str, float]:
        """Return the roles of the visitor's session that have not expired."""
        now = time.monotonic()
        session = self._sessions.get(request.cookies.get(COOKIE, ""), {})
        return {role: ends for role, ends in session.items() if ends > now}

    def _forget_old(self) -> None:
        now = time.monotonic()
        for name in [name for name, session in self._sessions.items() if max(session.values()) <= now]:
            del self._sessions[name]
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
