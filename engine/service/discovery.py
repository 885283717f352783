"""Find the service of a state directory through `<state_dir>/warehouse/service.json`."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """The address and process of a service. `fields`: the fields of the models that it was started with."""

    url: str
    pid: int
    fields: Mapping[str, Sequence[str]] | None = field(default=None, compare=False)

    def lacks(self, declared: Mapping[str, Sequence[str]]) -> list[str]:
        """Return the fields, as `Model.field`, that its models of these names would drop.

        Unknown models are not included, since the service rejects their records.
        """
        known = {name.lower(): fields for name, fields in (self.fields or {}).items()}  # routes ignore case
        return [
            f"{name}.{one}"
            for name, fields in declared.items()
            for one in fields
            if one not in known.get(name.lower(), fields)
        ]


def warehouse_file(state_dir: Path) -> Path:
    """Return the DuckDB file of a state directory."""
    return state_dir / "warehouse" / "warehouse.duckdb"


def service_file(state_dir: Path) -> Path:
    """Return the file with the service's address."""
    return state_dir / "warehouse" / "service.json"


def announce(state_dir: Path, address: ServiceAddress) -> None:
    """Write the file atomically. Raises OSError."""
    target = service_file(state_dir)
    draft = target.with_name(f"service.{address.pid}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as out:
        out.write(json.dumps({"url": address.url, "pid": address.pid, "fields": address.fields}))
    draft.replace(target)


def withdraw(state_dir: Path, address: ServiceAddress) -> None:
    """Remove the file if it is still this service's."""
    if announced(state_dir) == address:
        service_file(state_dir).unlink(missing_ok=True)


def find_running(state_dir: Path) -> ServiceAddress | None:
    """Return the running service of a directory, or None. Blocks for at most 2 s.

    A file of an ended process, or with an address that does not answer, is ignored.
    """
    address = announced(state_dir)
    if address is None or not _is_alive(address.pid) or not _answers(address.url):
        return None
    return address


def announced(state_dir: Path) -> ServiceAddress | None:
    """Return the content of the file, without checking that the service still runs.

    None unless only this user can have written it and it names this machine.
    """
    path = service_file(state_dir)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        address = ServiceAddress(str(content["url"]), int(content["pid"]), content.get("fields"))
        trusted = is_own(path) and is_own(path.parent) and _is_here(urlsplit(address.url).hostname or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return address if trusted else None


def _is_here(host: str) -> bool:
    """Return whether an address belongs to this machine, by binding it."""
    for family, kind, protocol, _, place in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
        with suppress(OSError), socket.socket(family, kind, protocol) as one:
            one.bind(place)
            return True
    return False


def is_own(path: Path) -> bool:
    """Return whether a file or folder is this user's and writable by no other, i.e. not planted."""
    if not hasattr(os, "geteuid"):
        return True
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _is_alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # on Windows, signal 0 would end the process; the health check decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _answers(url: str) -> bool:
    """Return whether something like the service answers there, healthy or not."""
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
