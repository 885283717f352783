"""Share one embedded ingest service between several runs with a state directory.

A warehouse can be open in one process only, so a second run uses the first one's. The process that holds it
must then outlive the first run. Each further run keeps a connection to it open, a *lease*, and it ends when
its own parent and all leases are gone. The kernel closes a lease however its run ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
        """Wait until none is open; from then on none is granted."""
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
            pass  # a killed run may reset its connection: the lease ends all the same
        finally:
            writer.close()
            self._count -= 1
            if not self._count:
                self._none_open.set()


@asynccontextmanager
async def offer_leases(state_dir: Path) -> AsyncIterator[Leases]:
    """Grant leases on this process for as long as the block runs."""
    leases = Leases()
    server = await asyncio.start_server(leases._hold, "127.0.0.1", 0)
    path = _lease_file(state_dir, os.getpid())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the warehouse will be in it
        draft = path.with_suffix(".tmp")
        draft.write_text(json.dumps({"port": server.sockets[0].getsockname()[1]}), encoding="utf-8")
        draft.replace(path)
        yield leases
    finally:
        path.unlink(missing_ok=True)
        server.close()


def take_lease(state_dir: Path, pid: int) -> socket.socket | None:
    """Keep process `pid` from ending until the returned socket is closed; None if it needs no lease.

    A `serve` needs none: it has no parent to end with. Blocks up to two seconds.

    Raises:
        LeaseRefusedError: It is already ending.
    """
    try:
        port = int(json.loads(_lease_file(state_dir, pid).read_text(encoding="utf-8"))["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        lease = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
    except ConnectionRefusedError:
        return None  # a file left behind by a killed process that had the same number
    except OSError as error:
        raise LeaseRefusedError from error
    try:
        if lease.recv(len(_GRANTED)) == _GRANTED:
            return lease
    except OSError as error:
        lease.close()
        raise LeaseRefusedError from error
    lease.close()
    raise LeaseRefusedError


def _lease_file(state_dir: Path, pid: int) -> Path:
    return state_dir / "warehouse" / f"sandbox-{pid}.json"
