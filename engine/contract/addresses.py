"""Recognize hosts of this machine."""

from __future__ import annotations

import re
from ipaddress import ip_address

__all__ = ["host_of", "is_loopback"]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")


def host_of(authority: str) -> str | None:
    """Return the host of `host:port` without brackets, or None if malformed."""
    found = _HOST.fullmatch(authority)
    if found is None or int(found[2] or 0) > 65_535:
        return None
    return found[1].strip("[]")


def is_loopback(host: str) -> bool:
    """Return whether a host, without brackets and port, is `localhost`, 127.0.0.0/8 or ::1."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
