"""The leases of runs in memory; the rules are those of `engine.state.leases`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from engine.errors import LeaseHeldError, LeaseLostError
from engine.state.errors import lease_lost
from engine.state.protocol import Lease

__all__ = ["MemoryLeases"]


class MemoryLeases:
    """By run and chunk; one given back stays without a holder, so that its epoch is not used again."""

    def __init__(self) -> None:
        self._leases: dict[str, dict[str, Lease]] = {}
        self._acquisitions: Counter[tuple[str, str]] = Counter()

    def require_epoch(self, run_id: str, epoch: int) -> None:
        """Raises `LeaseLostError` when the epoch has been overtaken."""
        leases = self._leases.get(run_id, {}).values()
        of_a_chunk = any(one.epoch == epoch and one.chunk for one in leases)
        for one in sorted(leases, key=lambda lease: -lease.epoch):
            if one.epoch > epoch and not (of_a_chunk and one.chunk):
                raise lease_lost(run_id, one.holder, one.epoch, epoch)

    def acquire(
        self, run_id: str, chunk: str, holder: str, now: str, until: str, dead_holders: Collection[str]
    ) -> Lease:
        leases = self._leases.setdefault(run_id, {})
        related = [one for one in leases.values() if not chunk or one.chunk in ("", chunk)]
        for one in sorted(related, key=lambda lease: -lease.epoch):
            if one.holder and one.holder not in dead_holders and one.expires_at > now:
                raise LeaseHeldError(run_id, one.holder, one.expires_at)
        epoch = max((one.epoch for one in leases.values()), default=0) + 1
        self._acquisitions[run_id, chunk] += 1
        acquisitions = sum(self._acquisitions[run_id, owner] for owner in {"", chunk})
        leases[chunk] = given = Lease(run_id, holder, epoch, until, chunk, acquisitions)
        return given

    def renew(self, lease: Lease, until: str) -> Lease:
        self.require_epoch(lease.run_id, lease.epoch)
        if not self._holds(lease):
            raise LeaseLostError(f"{lease.holder} has released run {lease.run_id!r}")
        self._leases[lease.run_id][lease.chunk] = renewed = replace(lease, expires_at=until)
        return renewed

    def release(self, lease: Lease) -> None:
        if self._holds(lease):
            self._leases[lease.run_id][lease.chunk] = replace(lease, holder="", expires_at="")

    def get(self, run_id: str, chunk: str) -> Lease | None:
        lease = self._leases.get(run_id, {}).get(chunk)
        return lease if lease is not None and lease.holder else None

    def held(self, run_id: str) -> list[Lease]:
        """Those that were not given back, the run's own first."""
        held = [one for one in self._leases.get(run_id, {}).values() if one.holder]
        return sorted(held, key=lambda lease: (lease.chunk, lease.epoch))

    def forget(self, run_id: str) -> None:
        for chunk in self._leases.pop(run_id, {}):
            del self._acquisitions[run_id, chunk]

    def _holds(self, lease: Lease) -> bool:
        found = self._leases.get(lease.run_id, {}).get(lease.chunk)
        return found is not None and (found.holder, found.epoch) == (lease.holder, lease.epoch)
