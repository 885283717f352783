"""Addresses of services in connections, their proxies, and addresses of what is written."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from engine.contract.addresses import is_loopback
from engine.errors import FatalError
from engine.redaction import has_credentials

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


def proxy_for(url: str, schemes: Collection[str] = ("http", "https")) -> str | None:
    """Return the proxy for this URL from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, or None.

    Loopback addresses never use a proxy, which could not reach them.

    Args:
        schemes: supported kinds of proxies.

    Raises:
        FatalError: the environment names an unsupported proxy.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in schemes:
        raise FatalError(
            f"the environment names a {scheme} proxy for {parts.scheme} requests: only http and https "
            "proxies can be used; name the host in NO_PROXY to reach it directly"
        )
    return proxy
