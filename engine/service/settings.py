"""Limits and keys of one service; none of them changes what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.service.auth import TokenSettings

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Keep:
    """What is kept: nothing older than `seconds`, and only the newest `rows`. None: no limit."""

    seconds: float | None = None
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of tables, by name, and of recovered and discarded dead letters."""

    tables: Mapping[str, Keep] = field(default_factory=dict)
    dead_letters: Keep = Keep()

    @property
    def is_set(self) -> bool:
        """Whether anything is ever removed."""
        return bool(self.tables) or self.dead_letters != Keep()


_EVERYTHING = Retention()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Sizes are bytes, times are seconds.

    `max_body_size` bounds one request after decompression; `max_inflight_size` all of them together.
    `max_records` bounds the records of one request, and so its dead letters and its answer.
    `max_queued_requests` and `max_queued_rows` bound the writer's queue; beyond them requests are answered
    429. `group_requests` and `group_rows` bound one commit. A dirty table is compacted after `compact_after`
    idle seconds. Idempotency keys are remembered for `ledger_days`. `memory_limit` is DuckDB's setting, in
    its notation. The two keys are the hex of PBKDF2-HMAC-SHA256(token, salt, 1000 rounds, 20 bytes); None
    leaves the routes open. Without the admin key and `admin_tokens` the admin routes are closed. Without the
    other two, the service listens only on this machine, and answers to its names and `allowed_hosts`, unless
    it is `insecure`. `path_prefix` is stripped from requests.

    Headers must arrive within `header_timeout`. A body may pause for `body_timeout`, and must arrive at
    `min_rate` bytes per second. A client that does not read its answer for `write_timeout` is cut off. A
    query of `/sql` may take `query_timeout`, and the process may grow by `query_memory` meanwhile. Beyond
    `max_connections` the connection that has been idle longest is closed. At most `max_streams` long answers
    are sent concurrently. `retention` determines what is removed; by default nothing.
    """

    max_body_size: int = 10 * MIB
    max_inflight_size: int = 128 * MIB
    max_records: int = 20_000
    max_queued_requests: int = 256
    max_queued_rows: int = 100_000
    group_requests: int = 16
    group_rows: int = 4_000
    compact_after: float = 2.0
    ledger_days: int = 30
    memory_limit: str = "1GB"
    header_timeout: float = 10.0
    body_timeout: float = 10.0
    min_rate: int = 16 * 1024
    write_timeout: float = 30.0
    max_connections: int = 1_000
    max_streams: int = 4
    query_timeout: float = 10.0
    query_memory: int = 256 * MIB
    retention: Retention = _EVERYTHING
    path_prefix: str = ""
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    stop_timeout: int = 10
    ingest_api_key: str | None = None
    consumption_api_key: str | None = None
    admin_api_key: str | None = None
    admin_tokens: TokenSettings | None = None

    @property
    def has_keys(self) -> bool:
        """Whether every request needs a token."""
        return bool(self.ingest_api_key and self.consumption_api_key)
