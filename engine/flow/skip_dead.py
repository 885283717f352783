"""Skip records that died in an earlier attempt at the run.

A dead letter is stored before its record is settled, so a record may come again after it has died. Processing
it again could pay a model for the same error, or deliver a record that counts as dead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set
from typing import TypeAlias

from engine.contract.batch import Batch
from engine.flow.stats import NodeStats
from engine.state.dead_letters import storable

Resettle: TypeAlias = Callable[[NodeStats, Batch], Awaitable[None]]
Next: TypeAlias = Callable[[Batch], Awaitable[None]]


def skip_dead(process: Next, stats: NodeStats, dead: Set[str], settle: Resettle) -> Next:
    """Wrap `process` to skip records whose keys are in the node's `dead`."""

    async def run(batch: Batch) -> None:
        rest = await split_dead(batch, stats, dead, settle)
        if rest.records:
            await process(rest)

    return run


async def split_dead(batch: Batch, stats: NodeStats, dead: Set[str], settle: Resettle) -> Batch:
    """Settle records that died before and return the others."""
    keys = [storable(key) for key in batch.keys.to_list()]
    known = [index for index, key in enumerate(keys) if key in dead]
    if not known:
        return batch
    stats.dead += len(known)
    await settle(stats, batch.take(known))
    return batch.take([index for index, key in enumerate(keys) if key not in dead])
