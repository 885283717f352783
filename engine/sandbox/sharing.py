"""Share one embedded ingest service between several runs with a state directory.

Only one process can open a warehouse, so a second run uses the first run's service, which must then outlive
the first run. Each further run keeps a connection to it open, a *lease*, and the service ends when its own
parent and all leases are gone. The kernel closes a lease however its run ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_GRANTED = b"ok\n"
_TIMEOUT = 2.0


class LeaseRefusedError(Exception):
    """The service is about to end; a new one may start when it is gone."""


class Leases:
    """The open leases of one process."""

    def __init__(self) -> None:
        self._count = 0
        self._none_open = asyncio.Event()
        self._none_open.set()
        self._is_ending = False

    @property
    def are_open(self) -> bool:
        return self._count > 0

    async def ended(self) -> None:
        """Wait until no lease is open; afterwards none is granted."""
        await self._none_open.wait()
        self._is_ending = True

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_ending:
            writer.close()
            return
        self._count += 1
        self._none_open.clear()
        try:
            writer.write(_GRANTED)
            while await reader.read(1024):
                pass
        except ConnectionError:
            pass  # a killed run may reset its connection, which also ends the lease
        finally:
            writer.close()
            self._count -= 1
            if not self._count:
                self._none_open.set()


@asynccontextmanager
async def offer_leases(state_dir: Path) -> AsyncIterator[Leases]:
    """Grant leases on this process for the duration of the block."""
    leases = Leases()
    server = await asyncio.start_server(leases._hold, "127.0.0.1", 0)
    path = _lease_file(state_dir, os.getpid())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the warehouse will be inside
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps({"port": server.sockets[0].getsockname()[1]}), encoding="utf-8")
        draft.replace(path)
        yield leases
    finally:
        path.unlink(missing_ok=True)
        server.close()


def take_lease(state_dir: Path, pid: int) -> socket.socket | None:
    """Keep process `pid` running until the returned socket is closed; return None if it needs no lease.

    `serve` needs none, since it does not end with a parent. Blocks up to two seconds.

    Raises:
        LeaseRefusedError: it is already ending.
    """
    try:
        port = int(json.loads(_lease_file(state_dir, pid).read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        lease = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
    except ConnectionRefusedError:
        return None  # a file left behind by a killed process with the same id
    except OSError as error:
        raise LeaseRefusedError from error
    with suppress(OSError):
        if lease.recv(len(_GRANTED)) == _GRANTED:
            return lease
    lease.close()
    raise LeaseRefusedError


def _lease_file(state_dir: Path, pid: int) -> Path:
    return state_dir / "warehouse" / f"sandbox-{pid}.json"
