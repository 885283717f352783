"""Addresses of services, as connections name them."""

from __future__ import annotations

from urllib.parse import urlsplit

from engine.redaction import has_credentials

__all__ = ["address_without_credentials", "http_address"]


def address_without_credentials(url: str) -> str:
    """The address, if it holds no user, password or key.

    Raises:
        ValueError: it does; says where these belong, and quotes nothing.
    """
    if has_credentials(url):
        raise ValueError(
            "must not hold a user, a password or a key: addresses are shown in messages and reports; use the "
            "connection's own fields for them"
        )
    return url


def http_address(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        ValueError: nothing could ever be reached there, whatever the network is like; says why.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no address: {error}") from None
    if not host or any(character.isspace() for character in url):
        raise ValueError("is no address: expected http://HOST:PORT, with a host and without spaces")
    if port == 0:
        raise ValueError("is no address: a port is from 1 to 65535")
    return url.rstrip("/")
