"""What a later attempt at a run does not do again: records that have died in an earlier one stay dead.

A letter is stored before its record is settled, so a record may come again although its letter is there.
Asking its node once more could pay a model for the same refusal, or deliver a record that counts as dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from typing import TypeAlias

from engine.contract.batch import Batch
from engine.flow.stats import NodeStats
from engine.state.dead_letters import storable

__all__ = ["SettleAgain", "passing_by", "set_apart"]

SettleAgain: TypeAlias = Callable[[NodeStats, Batch], Awaitable[None]]
Next: TypeAlias = Callable[[Batch], Awaitable[None]]


def passing_by(process: Next, stats: NodeStats, dead: Set[str], settle: SettleAgain) -> Next:
    """`process`, without the records whose keys are among the `dead` ones of its node."""

    async def run(batch: Batch) -> None:
        rest = await set_apart(batch, stats, dead, settle)
        if rest.records:
            await process(rest)

    return run


async def set_apart(batch: Batch, stats: NodeStats, dead: Set[str], settle: SettleAgain) -> Batch:
    """Settle the records that have died before; returns the others."""
    keys = [storable(key) for key in batch.keys.to_list()]
    known = [index for index, key in enumerate(keys) if key in dead]
    if not known:
        return batch
    stats.dead += len(known)
    await settle(stats, batch.take(known))
    return batch.take([index for index, key in enumerate(keys) if key not in dead])
