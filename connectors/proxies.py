"""The environment's proxy for an address."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from engine.errors import FatalError

__all__ = ["proxy_for"]


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


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
