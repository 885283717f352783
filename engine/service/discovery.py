"""Finding the service that runs on a state directory, through `<state_dir>/warehouse/service.json`."""

from __future__ import annotations

import http.client
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["ServiceAddress", "announce", "find_running", "service_file", "warehouse_file", "withdraw"]

_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Where a service listens, and the process that it runs in."""

    url: str
    pid: int


def warehouse_file(state_dir: Path) -> Path:
    """The DuckDB file of a state directory."""
    return state_dir / "warehouse" / "warehouse.duckdb"


def service_file(state_dir: Path) -> Path:
    """The file that says where a service listens."""
    return state_dir / "warehouse" / "service.json"


def announce(state_dir: Path, address: ServiceAddress) -> None:
    """Write the file, whole or not at all. Raises OSError."""
    target = service_file(state_dir)
    draft = target.with_name(f"service.{address.pid}.tmp")
    draft.write_text(json.dumps({"url": address.url, "pid": address.pid}), encoding="utf-8")
    draft.replace(target)


def withdraw(state_dir: Path, address: ServiceAddress) -> None:
    """Remove the file if it is still this service's."""
    if _read(state_dir) == address:
        service_file(state_dir).unlink(missing_ok=True)


def find_running(state_dir: Path) -> ServiceAddress | None:
    """The service on that directory, None without one. Blocks for at most 2 s.

    A file left behind by a process that is gone, or whose address does not answer, is ignored.
    """
    address = _read(state_dir)
    if address is None or not _is_alive(address.pid) or not _answers(address.url):
        return None
    return address


def _read(state_dir: Path) -> ServiceAddress | None:
    try:
        content = json.loads(service_file(state_dir).read_text(encoding="utf-8"))
        return ServiceAddress(str(content["url"]), int(content["pid"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # there, signal 0 would end the process; the health check decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _answers(url: str) -> bool:
    """Whether something that looks like the service answers there, healthy or not."""
    try:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_TIMEOUT)
        try:
            connection.request("GET", "/health")
            body = json.loads(connection.getresponse().read(65_536))
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return isinstance(body, dict) and "healthy" in body
