"""Ports for servers that are killed and restarted at the same address."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

__all__ = ["lasting_port"]

LOWEST, EPHEMERAL = 10_000, 32_768
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def lasting_port() -> int:
    """A free port of loopback that the kernel gives to no connection, so that it stays free when left.

    Another process may take the same port meanwhile, so starting a server at it is retried.
    """
    try:
        end = int(RANGE.read_text().split()[0])
    except (OSError, ValueError):  # another system
        end = EPHEMERAL
    while True:
        port = SystemRandom().randrange(LOWEST, end) if end > LOWEST else 0
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found
