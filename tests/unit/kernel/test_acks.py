"""Accounts of source batches: released once, never settled twice, and added up when a split ends."""

from __future__ import annotations

import pytest

from engine.acks import SplitTracker
from engine.batch import Split
from engine.errors import EngineError
from engine.ledger import Ledger
from engine.state.memory import MemoryStateStore
from engine.state.protocol import Progress, SplitRecord
from tests.unit.kernel.accounts import Released, opened
from tests.unit.kernel.runs import record_of


def test_bytes_come_back_once_when_the_last_record_is_settled() -> None:
    reservation = Released(100)
    ack = SplitTracker("s").begin(3, 3, reservation)

    ack.written(1)
    ack.dropped(1, "x")
    assert reservation.times == 0
    ack.dead(1)

    assert reservation.times == 1
    ack.grew(50)
    assert reservation.held == 100


def test_a_record_is_never_settled_twice() -> None:
    _, ack = opened(1)
    ack.written(1)

    with pytest.raises(EngineError, match="twice"):
        ack.dead(1)


def test_an_empty_batch_moves_the_position_and_keeps_no_bytes() -> None:
    reservation, tracker = Released(10), SplitTracker("s")

    tracker.begin(0, 7, reservation)

    assert (tracker.position, reservation.times) == (7, 1)


def test_an_unconfirmed_record_counts_as_written_and_as_accepted() -> None:
    _, ack = opened(2)
    ack.written(2, confirmed=False)

    assert (ack.tally.written, ack.tally.accepted, ack.tally.balanced) == (2, 2, True)


class _SlowStore(MemoryStateStore):
    """Lets something happen while a commit is under way."""

    meanwhile = staticmethod(lambda: None)

    async def commit(self, run_id: str, progress: list[Progress], *, epoch: int = 0) -> None:  # type: ignore[override]
        await super().commit(run_id, progress, epoch=epoch)
        self.meanwhile()


@pytest.mark.anyio
async def test_a_split_that_ends_during_a_commit_is_counted_once() -> None:
    async with _SlowStore() as store:
        await store.create_run(record_of("r"))
        await store.add_splits("r", "n", [Split("s")], complete=True)
        ledger = Ledger(store, "r")
        tracker = ledger.track("n", SplitRecord("n", Split("s")), replay=False)
        tracker.begin(2, 2).written(2)
        store.meanwhile = tracker.finish_reading  # type: ignore[method-assign]

        await ledger.commit()
        store.meanwhile = lambda: None  # type: ignore[method-assign]
        await ledger.commit()

        assert ledger.live().written == 2
        assert (await ledger.tally()).written == 2
        (known,), _ = await store.splits("r", "n")
        assert known.done
