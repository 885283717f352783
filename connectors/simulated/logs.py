"""Simulated log lines of ten services."""

from __future__ import annotations

from functools import cached_property
from random import Random

from connectors.simulated.blocks import JsonObject, uuids
from connectors.simulated.pools import ReadablePools

MESSAGES: dict[str, tuple[str, ...]] = {
    "INFO": (
        "Signed in: {user} from {ip}",
        "Order confirmed for {name}",
        "Report delivered to {name}",
        "Upload finished by {user}",
        "Webhook delivered to {url}",
        "Nightly compaction finished",
        "Configuration reloaded",
        "Worker joined the pool",
    ),
    "DEBUG": (
        "Cache miss for profile of {user}",
        "Resolved client address {ip}",
        "Fetched {url} from the edge cache",
        "Rendered invoice for {name}",
        "Retry timer armed",
        "Connection returned to the pool",
        "Query plan reused",
        "Lock acquired without waiting",
    ),
    "WARN": (
        "Repeated sign-in failures for {user} from {ip}",
        "Slow response from {url}",
        "Request rate of {ip} is close to its limit",
        "Address of {name} could not be verified",
        "Deprecated endpoint called by {user}",
        "Disk usage above 85 %",
        "Certificate expires within 14 days",
        "Queue is growing faster than it drains",
    ),
    "ERROR": (
        "Payment declined for {name}",
        "Token of {user} is not valid any more",
        "Upstream {url} answered 502",
        "Connection reset by {ip}",
        "Transaction rolled back after a deadlock",
        "Out of file descriptors",
        "Message could not be decoded",
        "Replica is behind by more than a minute",
    ),
}
"""Eight messages per level; names in braces are filled in with realistic values."""

SOURCES = (
    "accounts", "billing", "catalog", "edge-proxy", "mailer",
    "orders", "recommender", "search", "uploads", "warehouse-sync",
)  # fmt: skip
"""Ten services."""

TRACE_IDS = (
    "trace-07c1f4a2", "trace-1be93d50", "trace-42ac8e16", "trace-5d70b39f",
    "trace-86f2c7d1", "trace-9e04a58b", "trace-b3d961ec", "trace-f81a2073",
)  # fmt: skip
"""Eight concurrent requests, each with lines of several services."""

TRACED_SHARE = 0.7


class LogMaker:
    """Generates `LogSource` records, 70 % of them in a trace."""

    kind = "logs"

    def __init__(self, pools: ReadablePools | None = None) -> None:
        self._pools = pools or ReadablePools()

    def prepare(self) -> None:
        """Build the pools."""
        _ = self._lines, self._traces

    def make(self, random: Random, timestamps: list[str]) -> list[JsonObject]:
        """Generate one record per timestamp."""
        count = len(timestamps)
        choices = random.choices
        columns = zip(
            uuids(random, count),
            timestamps,
            choices(self._lines, k=count),
            choices(SOURCES, k=count),
            choices(self._traces, k=count),
            strict=True,
        )
        return [
            {
                "id": id_,
                "timestamp": timestamp,
                "level": level,
                "message": message,
                "source": source,
                "trace_id": trace_id,
            }
            for id_, timestamp, (level, message), source, trace_id in columns
        ]

    @cached_property
    def _traces(self) -> list[str | None]:
        """Return each id seven times in eighty, and none for the other three tenths."""
        traced = [*TRACE_IDS] * round(10 * TRACED_SHARE)
        return [*traced, *[None] * (10 * len(TRACE_IDS) - len(traced))]

    @cached_property
    def _lines(self) -> list[tuple[str, str]]:
        """Return levels and messages: equal numbers per message, with values filled in."""
        pools = self._pools
        values = zip(pools.user_names(), pools.ip_addresses(), pools.names(), pools.urls(), strict=True)
        lines: list[tuple[str, str]] = []
        for index, (user, ip, name, url) in enumerate(values):
            for level, messages in MESSAGES.items():
                template = messages[index % len(messages)]
                lines.append((level, template.format(user=user, ip=ip, name=name, url=url)))
        return lines
