"""Listing of the input: every manifest is in the ledger before any of it is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from engine.contract.clock import Clock
from engine.contract.component import Source
from engine.errors import NodeFailedError
from engine.execution.ledger import Ledger
from engine.execution.resources import RunIdentity
from engine.execution.split_pages import SplitPages
from engine.flow.outage import Outage
from engine.flow.segment import Runtime
from engine.state.store import StateStore

PAGE_SPLITS = 1_000
"""Splits per transaction where the same process reads them."""


class Listing:
    """Stores the splits of a run's sources, and returns those to read."""

    def __init__(self, identity: RunIdentity, ledger: Ledger, store: StateStore, clock: Clock) -> None:
        self._identity = identity
        self._ledger = ledger
        self._store = store
        self._clock = clock

    async def splits(self, source: Source[Any], runtime: Runtime) -> SplitPages:
        """Return the splits of a source to read, listing them unless that was done before.

        Raises:
            NodeFailedError: the run is resumed, and the source can be read only once.
            OutageError: the source was unavailable for longer than `outage_limit`.
        """
        name, identity = runtime.node.name, self._identity
        if identity.resumed and not source.resumable:
            await self._refuse_second_reading(name)
        pages = partial(SplitPages, self._store, self._ledger, identity.run_id, name)
        if (chunk := identity.chunk) is not None:  # other sources are read in other chunks
            return pages(first=chunk.first, total=chunk.count if name == chunk.node else 0)
        if identity.resumed:
            source.ctx.read_before = (await self._store.counts(identity.run_id, name)).read
        listed = partial(self._ledger.list_in_pages, name, source, source.ctx, page_splits=PAGE_SPLITS)
        return pages(total=await self._outage(runtime).through(listed))

    async def in_pages(self, source: Source[Any], runtime: Runtime, on_page: Callable[[int], None]) -> int:
        """Store the splits of a source page by page; return their number.

        Raises:
            OutageError: the source was unavailable for longer than `outage_limit`.
            RunError: it cannot be listed.
        """
        outage, furthest = self._outage(runtime), 0

        def note(listed: int) -> None:
            nonlocal furthest
            if listed > furthest:  # each attempt lists from the beginning, so earlier splits are no progress
                furthest = listed
                outage.over()
            on_page(listed)

        pages = partial(self._ledger.list_in_pages, runtime.node.name, source, source.ctx, note)
        return await outage.through(pages)

    async def _refuse_second_reading(self, name: str) -> None:
        """Reject a second read of a source with unstable keys, which would deliver records twice."""
        _, begun = await self._store.splits(self._identity.run_id, name, limit=0)
        done, total = await self._store.count_splits(self._identity.run_id, name)
        if begun and done < total:
            raise NodeFailedError(
                name, "it can be read only once, so its run cannot be resumed: start a new one"
            )

    def _outage(self, runtime: Runtime) -> Outage:
        return Outage("list its input", runtime.stats, runtime.policy, self._clock)
