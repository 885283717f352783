"""The splits of a run still to read, loaded from the state store page by page."""

from __future__ import annotations

from collections import deque

import anyio

from engine.execution.ledger import Ledger
from engine.state.records import SplitRecord
from engine.state.store import StateStore

PAGE = 100
"""Splits in memory at a time; a manifest may name a thousand objects."""


class SplitPages:
    """The unfinished splits of one node, in the order of the ledger. Holds one page of manifests.

    Finished splits are counted in the ledger as they are skipped.

    Args:
        first, total: the part of the node's splits to read here.
    """

    def __init__(
        self, store: StateStore, ledger: Ledger, run_id: str, node: str, *, first: int = 0, total: int
    ) -> None:
        self.total = total
        self._store = store
        self._ledger = ledger
        self._run_id = run_id
        self._node = node
        self._next = first
        self._end = first + total
        self._page: deque[SplitRecord] = deque()
        self._loading = anyio.Lock()

    @property
    def exhausted(self) -> bool:
        """Whether `next` will return None."""
        return not self._page and self._next >= self._end

    async def next(self) -> SplitRecord | None:
        """Return the next split that is not done; None at the end."""
        async with self._loading:
            while not self._page and self._next < self._end:
                await self._load()
            return self._page.popleft() if self._page else None

    async def skip_done(self) -> None:
        """Count the remaining finished splits, and return no further splits."""
        async with self._loading:
            while self._next < self._end:
                await self._load()
                self._page.clear()

    async def _load(self) -> None:
        limit = min(PAGE, self._end - self._next)
        records, _ = await self._store.splits(self._run_id, self._node, start=self._next, limit=limit)
        self._next = self._next + limit if len(records) == limit else self._end
        for record in records:
            if record.done:
                self._ledger.skip(record)
            else:
                self._page.append(record)
