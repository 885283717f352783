"""Keys of delivered records, across all runs of a pipeline.

A key is stored as a bookmark, in one transaction with the position of its record: only after the record is
delivered, and never for a dead letter. Until then it is held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from engine.contract.acks import Ack
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context
from engine.errors import FatalError

__all__ = ["Candidate", "RememberedKeys"]

SCOPE: Final = "delivered"
HELD: Final = 20_000
"""Keys in memory that trigger the removal of those stored by now."""


class Candidate(NamedTuple):
    """A record to compare: its identity in the run, its own key, and its key for comparison."""

    identity: int
    record_key: str
    ack: Ack | None


class RememberedKeys:
    """The keys of delivered records, and of those not delivered yet.

    Args:
        max_held: maximum keys not delivered yet; more fail the run.
    """

    def __init__(self, ctx: Context, max_held: int) -> None:
        self._ctx = ctx
        self._max_held = max_held
        self._held: dict[str, Candidate] = {}
        self._look_at = HELD

    async def first_of(self, found: Sequence[tuple[str, Candidate]]) -> list[bool]:
        """Return for each candidate whether it is the first record with its key.

        Raises:
            FatalError: too many keys are not delivered yet.
            StateError: the stored keys cannot be read.
        """
        keys = {key: _digest(key) for key, _ in found}
        asked = [digest for digest in dict.fromkeys(keys.values()) if digest not in self._held]
        stored = await self._ctx.bookmarks.get(SCOPE, asked) if asked else {}
        first = [self._is_first(keys[key], candidate, stored.keys()) for key, candidate in found]
        if len(self._held) > self._look_at:
            await self._let_go()
        return first

    def _is_first(self, key: str, candidate: Candidate, stored: object) -> bool:
        holder = self._held.get(key)
        if holder is not None and not (holder.ack is not None and holder.ack.lost(holder.record_key)):
            # a batch may be processed twice: the key belongs to the same record then
            return holder.identity == candidate.identity
        if key in stored:  # type: ignore[operator]
            return False
        self._held[key] = candidate
        if candidate.ack is not None:
            candidate.ack.remember(candidate.record_key, Bookmark(SCOPE, key, 1, self._ctx.node))
        return True

    async def _let_go(self) -> None:
        settled = [
            key for key, holder in self._held.items() if holder.ack is not None and holder.ack.complete
        ]
        stored = await self._ctx.bookmarks.get(SCOPE, settled)
        self._held = {
            key: holder
            for key, holder in self._held.items()
            if key not in stored and not (holder.ack is not None and holder.ack.lost(holder.record_key))
        }
        if len(self._held) > self._max_held:
            message = f"more than {self._max_held:,} distinct keys are not delivered yet"
            raise FatalError(f"{message}: raise `max_keys`, or lower `memory`")
        self._look_at = max(HELD, 2 * len(self._held))


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
