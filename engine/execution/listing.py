"""Listing of the input: every manifest is in the ledger before anything of it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from engine.contract.clock import Clock
from engine.contract.component import Source
from engine.errors import NodeFailedError
from engine.execution.ledger import Ledger
from engine.execution.resources import RunIdentity
from engine.flow.outage import Outage
from engine.flow.segment import Runtime
from engine.state.protocol import SplitRecord, StateStore

__all__ = ["Listing"]


class Listing:
    """Stores the splits of a run's sources, and says which of them are to be read."""

    def __init__(self, identity: RunIdentity, ledger: Ledger, store: StateStore, clock: Clock) -> None:
        self._identity = identity
        self._ledger = ledger
        self._store = store
        self._clock = clock

    async def splits(self, source: Source[Any], runtime: Runtime) -> Sequence[SplitRecord]:
        """Return the splits of a source, done ones included: as listed before, or listed now.

        Raises:
            NodeFailedError: the run is resumed, and the source can be read only once.
            OutageError: the source was away for longer than `outage_limit`.
        """
        name, identity = runtime.node.name, self._identity
        if identity.resumed and not source.resumable:
            await self._refuse_second_reading(name)
        if (chunk := identity.chunk) is not None:
            if name != chunk.node:
                return []  # it is read in chunks of its own
            records, _ = await self._store.splits(identity.run_id, name, start=chunk.first, limit=chunk.count)
            return records
        listed = partial(self._ledger.splits, name, source, source.ctx, resumed=identity.resumed)
        return await self._outage(runtime).through(listed)

    async def in_pages(self, source: Source[Any], runtime: Runtime, on_page: Callable[[int], None]) -> int:
        """Store the splits of a source page by page; return their number.

        Raises:
            OutageError: the source was away for longer than `outage_limit`.
            RunError: it cannot be listed.
        """
        outage, furthest = self._outage(runtime), 0

        def note(listed: int) -> None:
            nonlocal furthest
            if listed > furthest:  # each try lists from the beginning, so earlier splits are no progress
                furthest = listed
                outage.over()
            on_page(listed)

        pages = partial(self._ledger.list_in_pages, runtime.node.name, source, source.ctx, note)
        return await outage.through(pages)

    async def _refuse_second_reading(self, name: str) -> None:
        """What a source gives a second time under other keys would be delivered twice."""
        known, begun = await self._store.splits(self._identity.run_id, name)
        if begun and not all(record.done for record in known):
            raise NodeFailedError(
                name, "it can be read only once, so its run cannot be resumed: start a new one"
            )

    def _outage(self, runtime: Runtime) -> Outage:
        return Outage("list its input", runtime.stats, runtime.policy, self._clock)
