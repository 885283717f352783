"""Who may see and do what on the page: sessions in a cookie, and tokens against forged requests.

Without keys everybody who reaches the service may do everything, as with its other routes: the guard lets in
names and origins of this machine only. A form must still carry the token that only our own pages know.
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

__all__ = ["COOKIE", "LIFETIME", "Access", "Roles"]

COOKIE = "odw_session"
LIFETIME = 12 * 3600
_MAX_SESSIONS = 1_000
_OPEN = "open"


@dataclass(frozen=True, slots=True)
class Roles:
    """What a visitor may do: see everything, change what is stored, start and end runs."""

    read: bool
    write: bool
    admin: bool


@dataclass(slots=True)
class _Session:
    roles: set[str]
    ends: float


@dataclass(slots=True)
class Access:
    """Sessions of one service; they end with it."""

    context: ServiceContext
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _sessions: dict[str, _Session] = field(default_factory=dict)

    @property
    def has_keys(self) -> bool:
        """Whether anybody has to log in for anything."""
        settings = self.context.settings
        has_admin = self.context.admin_key.is_set
        return bool(settings.ingest_api_key or settings.consumption_api_key or has_admin)

    def roles(self, request: Request) -> Roles:
        """What the visitor may do. A key that is not set guards nothing; the admin's opens everything."""
        settings = self.context.settings
        session = self._session(request)
        held = session.roles if session is not None else set()
        is_admin = "admin" in held
        read = not settings.consumption_api_key or is_admin or "read" in held
        write = not settings.ingest_api_key or is_admin or "write" in held
        admin = is_admin if self.context.admin_key.is_set else read and write
        return Roles(read, read and write, read and admin)

    async def log_in(self, request: Request, token: str) -> str | None:
        """A session with what this token opens, beside what the visitor had; None when it opens nothing."""
        context = self.context
        header = f"Bearer {token.strip()}"
        keys = (
            ("read", context.consumption_key),
            ("write", context.ingest_key),
            ("admin", context.admin_key),
        )
        is_set = {
            "read": context.settings.consumption_api_key,
            "write": context.settings.ingest_api_key,
            "admin": context.admin_key.is_set,
        }
        gained = {name for name, key in keys if is_set[name] and await key.allows(header)}
        if not gained:
            return None
        known = self._session(request)
        self._forget_old()
        name = secrets.token_urlsafe(32)
        roles = gained | (known.roles if known is not None else set())
        self._sessions[name] = _Session(roles, time.monotonic() + LIFETIME)
        return name

    def log_out(self, request: Request) -> None:
        """End the visitor's session."""
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def token(self, request: Request) -> str:
        """What a form of this visitor must carry."""
        name = request.cookies.get(COOKIE, "")
        who = name if name in self._sessions else _OPEN
        return hmac.new(self._secret, who.encode(), hashlib.sha256).hexdigest()

    def is_own(self, request: Request, token: str) -> bool:
        """Whether a form comes from a page of ours: by its token, and by its origin where there is one."""
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
            return False
        return hmac.compare_digest(self.token(request).encode(), token.encode("utf-8", "replace"))

    def _session(self, request: Request) -> _Session | None:
        name = request.cookies.get(COOKIE, "")
        session = self._sessions.get(name)
        if session is not None and session.ends < time.monotonic():
            del self._sessions[name]
            return None
        return session

    def _forget_old(self) -> None:
        now = time.monotonic()
        for name in [name for name, session in self._sessions.items() if session.ends < now]:
            del self._sessions[name]
        while len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
