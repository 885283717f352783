"""Addresses of databases: distinguish them from directories, and show them without secrets."""

from __future__ import annotations

import re
from typing import Final

from engine.errors import ConfigError

_SCHEME: Final = re.compile(r"postgres(?:ql)?://")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[^:\[\]]*)(?::\d*)?")
_SECRET: Final = re.compile(r"(?<=password=)[^&]*", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Return whether this is `postgresql://…` or `postgres://…`."""
    return _SCHEME.match(text) is not None


def checked(address: str) -> str:
    """Return the address, if it can be parsed in only one way.

    libpq would treat the text after a stray `@` or `/` in a password as a host, and quote it in errors.

    Raises:
        ConfigError: it is ambiguous; the message quotes no part of it.
    """
    login, hosts, rest, options = _parts(address)
    odd = "/" in login or "@" in login or ("@" in options and not login)
    if not is_address(address) or odd or not all(map(_HOST.fullmatch, hosts.split(","))) or "?" in rest:
        raise unusable()
    return address


def unusable() -> ConfigError:
    """Return the error for an invalid address, without quoting it, since any part may be secret."""
    return ConfigError(
        "the address of the state store is not valid: write "
        "postgresql://USER@HOST:PORT/DATABASE?OPTION=VALUE, with the options that libpq knows, and %40 "
        "for @, %2F for / and %3F for ? in a password"
    )


def place_of(address: str) -> str:
    """Return scheme, user, host and database, for messages."""
    login, hosts, database, _ = _parts(address)
    user = login.partition(":")[0]
    return f"postgresql://{user}{'@' if user else ''}{hosts}/{database}"


def without_secrets(address: str) -> str:
    """Return the whole address with `***` for passwords, for hints to copy."""
    login, hosts, database, options = _parts(address)
    user, colon, _ = login.partition(":")
    shown = f"postgresql://{user}{':***' if colon else ''}{'@' if login else ''}{hosts}/{database}"
    return f"{shown}?{_SECRET.sub('***', options)}" if options else shown


def _parts(address: str) -> tuple[str, str, str, str]:
    """Return user with password, hosts with ports, database, options; each may be ""."""
    location, _, options = _SCHEME.sub("", address, count=1).partition("?")
    login, _, place = location.rpartition("@")
    hosts, _, database = place.partition("/")
    return login, hosts, database, options
