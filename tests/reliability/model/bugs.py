"""Bugs to plant in the engine, to check that the model finds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from engine.contract.acks import SplitTracker, Tally
from engine.contract.batch import Batch, join
from engine.execution import ledger
from engine.flow import batching
from engine.state.memory import MemoryStateStore
from engine.state.records import Progress
from engine.state.store import StateStore

__all__ = ["BUGS"]


def watermark_before_ack(patch: pytest.MonkeyPatch) -> str:
    """The ledger says how far a split was read, not how far it was acknowledged."""
    honest = ledger._progress

    def progress(node: str, tracker: SplitTracker, *, closing: bool = False) -> Progress:
        made = honest(node, tracker, closing=closing)
        return replace(made, position=tracker._acks[-1].end) if tracker._acks else made

    patch.setattr(ledger, "_progress", progress)
    return "the first record that is not settled"


def tally_outside_the_transaction(patch: pytest.MonkeyPatch) -> str:
    """Positions are written first, what they cover in a second transaction."""
    for store in (MemoryStateStore, StateStore):
        patch.setattr(store, "commit", _in_two_steps(store.commit))
    return "the tally is not that of the records before"


def _in_two_steps(commit: Callable[..., object]) -> Callable[..., object]:
    async def first_one_then_the_other(
        store: StateStore, run_id: str, progress: Sequence[Progress], *, epoch: int = 0
    ) -> None:
        known: dict[str, Tally] = {}
        for node in {one.node for one in progress}:
            splits, _ = await store.splits(run_id, node)
            known |= {record.split.key: record.tally for record in splits}
        positions = [replace(one, tally=known[one.split_key]) for one in progress]
        await commit(store, run_id, positions, epoch=epoch)  # type: ignore[misc]
        await commit(store, run_id, progress, epoch=epoch)  # type: ignore[misc]

    return first_one_then_the_other


def lost_origin_on_rebatch(patch: pytest.MonkeyPatch) -> str:
    """A batch that was joined for its size answers to the first of its source batches alone."""

    def join_carelessly(batches: Sequence[Batch]) -> Batch:
        joined = join(batches)
        joined.origins = [(ack, len(joined)) for ack, _ in joined.origins[:1]]
        return joined

    patch.setattr(batching, "join", join_carelessly)
    return "an origin is lost"


BUGS: Mapping[str, Callable[[pytest.MonkeyPatch], str]] = {
    bug.__name__: bug for bug in (watermark_before_ack, tally_outside_the_transaction, lost_origin_on_rebatch)
}
