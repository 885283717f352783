"""Addresses of services in connections, and of what is written."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from engine.redaction import has_credentials

__all__ = ["address_without_credentials", "http_address", "without_fields"]

_FIELD: Final = re.compile(r"\{(\w+)\}")


def address_without_credentials(url: str) -> str:
    """Return the address unchanged if it holds no user, password or key.

    Raises:
        ValueError: it does; the message names the fields to use and quotes nothing.
    """
    if has_credentials(url):
        raise ValueError(
            "must not contain a user, a password or a key, because messages and reports show addresses: "
            "use the connection's own fields"
        )
    return url


def http_address(url: str) -> str:
    """Validate an HTTP address and strip its trailing slash.

    Raises:
        ValueError: no service could have this address; the message gives the reason.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is not a valid address: {error}") from None
    if not host or any(character.isspace() for character in url):
        raise ValueError("is not a valid address: expected http://HOST:PORT, with a host and without spaces")
    if port == 0:
        raise ValueError("is not a valid address: a port is from 1 to 65535")
    return url.rstrip("/")


def without_fields(path: str) -> str:
    """Return the path unchanged if it names no fields of records.

    Raises:
        ValueError: it does, as in `out/{day}`: they are not filled in.
    """
    if found := _FIELD.search(path):
        raise ValueError(
            f"{found[0]} is not filled in, because all records go to one place: write $"
            f"{{params.{found[1]}}} for a parameter of the run, `partition_by: [{found[1]}]` in a sink "
            "`files` or `s3`, or `route` records to several sinks"
        )
    return path
