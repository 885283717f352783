"""The lease of a run: one process at a time works on it, and a superseded one is stopped.

A lease lasts 30 s and is renewed every 10 s. It is dead once it has expired, or at once if its holder is a
process of this host that no longer exists. Then the next process takes over with a higher epoch, and the
store rejects writes with a lower one.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import getnode

import anyio

from engine.contract.clock import Clock, timestamp
from engine.errors import LeaseHeldError, StateError
from engine.state.records import Lease
from engine.state.store import StateStore

LEASE_TTL: Final = 30.0
RENEWED_EVERY: Final = 10.0


class HeldLease:
    """A lease held by this process; created by `acquire`."""

    def __init__(self, store: StateStore, clock: Clock, lease: Lease, renewed_at: float) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._renewed_at = renewed_at

    @property
    def epoch(self) -> int:
        """The epoch to pass with every write about the run."""
        return self._lease.epoch

    @property
    def acquisitions(self) -> int:
        """Number of acquisitions so far, including this one."""
        return self._lease.acquisitions

    async def renew_periodically(self, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        """Renew the lease until cancelled.

        Args:
            sleep: waits in real time, regardless of the run's clock: a lease is about processes, and a
                scripted clock that jumps would renew without end.

        Raises:
            LeaseLostError: another process has taken over the run.
            StateError: the store cannot be used.
        """
        while True:
            await sleep(RENEWED_EVERY)
            await self._renew()

    def is_expired(self) -> bool:
        """Return whether the lease was renewed too long ago: this process may have been suspended."""
        return _seconds_since_boot() - self._renewed_at > LEASE_TTL

    async def confirm(self) -> None:
        """Renew an expired lease. Raises what `renew_periodically` raises."""
        if self.is_expired():
            await self._renew()

    async def _renew(self) -> None:
        began = _seconds_since_boot()
        self._lease = await self._store.renew_lease(self._lease, until=_until(self._clock))
        self._renewed_at = began

    async def renew_within(self, scope: anyio.CancelScope, lost: Callable[[StateError], None]) -> None:
        """Renew until the scope is cancelled; call `lost` if that is no longer possible."""
        with scope:
            try:
                await self.renew_periodically()
            except StateError as error:
                lost(error)

    async def release(self) -> None:
        """Release the lease, even if cancelled."""
        with anyio.CancelScope(shield=True), suppress(StateError):
            # a store that fails now has already failed the run, and the lease will expire
            await self._store.release_lease(self._lease)


@asynccontextmanager
async def acquire(
    store: StateStore, clock: Clock, run_id: str, chunk: str = ""
) -> AsyncGenerator[HeldLease, None]:
    """Acquire the lease of a run or of a chunk for the block; run `renew_periodically` meanwhile.

    Raises:
        LeaseHeldError: another process works on it.
    """
    began = _seconds_since_boot()
    lease = HeldLease(store, clock, await _acquire(store, clock, run_id, chunk), began)
    try:
        yield lease
    finally:
        await lease.release()


async def living(store: StateStore, clock: Clock, run_id: str) -> Lease | None:
    """Return a live lease of a run or of a chunk of it, or None."""
    now = timestamp(clock.now())
    for lease in await store.leases(run_id):
        if lease.expires_at > now and not holder_is_gone(lease.holder):
            return lease
    return None


def process_here(holder: str) -> int | None:
    """Return the number of a holder's process, or None if it is one of another host or container."""
    named, _, mark = holder.rpartition(":")
    host, _, process = named.rpartition(":")
    if host != socket.gethostname() or not process.isdecimal() or not mark.startswith(numbering()):
        return None
    return int(process)


def holder_is_gone(holder: str) -> bool:
    """Return whether a holder is an ended process of this host; when in doubt, it is alive."""
    process = process_here(holder)
    if process is None:
        return False
    if sys.platform == "win32":
        return False  # on Windows, signal 0 would end the process
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return _has_ended(process)


@lru_cache(maxsize=1)
def numbering() -> str:
    """Identify the process id namespace: two hosts or containers may share a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        boot, space = "", getnode()
    return sha256(f"{boot}{space}".encode()).hexdigest()[:6]


async def _acquire(store: StateStore, clock: Clock, run_id: str, chunk: str) -> Lease:
    holder = f"{socket.gethostname()}:{os.getpid()}:{numbering()}{secrets.token_hex(3)}"
    now, until = timestamp(clock.now()), _until(clock)
    dead: set[str] = set()
    while True:
        try:
            return await store.acquire_lease(
                run_id, holder, now=now, until=until, dead_holders=dead, chunk=chunk
            )
        except LeaseHeldError as error:
            if error.holder in dead or not holder_is_gone(error.holder):
                raise
            dead.add(error.holder)  # and check whether another process is in the way
        except anyio.get_cancelled_exc_class():
            await _release_left_behind(store, run_id, holder)
            raise


async def _release_left_behind(store: StateStore, run_id: str, holder: str) -> None:
    """Release a lease acquired after asyncio itself cancelled the task, as Temporal does."""
    with anyio.CancelScope(shield=True), suppress(StateError):
        # writes are executed in order, so when this no-op write is done, that call is too
        await store.release_lease(Lease(run_id, holder, epoch=0, expires_at="", chunk="", acquisitions=0))
        for lease in await store.leases(run_id):
            if lease.holder == holder:
                await store.release_lease(lease)


def _seconds_since_boot() -> float:
    """Return seconds that also pass while the process or, on Linux, the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _until(clock: Clock) -> str:
    return timestamp(clock.now() + timedelta(seconds=LEASE_TTL))


def _has_ended(process: int) -> bool:
    """Return whether a process is a zombie: killed, but not yet reaped by its parent (proc(5), state Z)."""
    try:
        status = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[:1] == [b"Z"]
