"""Acks of source batches: released once, never settled twice, and added up at the end of a split."""

from __future__ import annotations

import pytest

from engine.contract.acks import SplitTracker, Tally
from engine.contract.split import Split
from engine.errors import EngineError
from engine.execution.ledger import Ledger
from engine.state.memory import MemoryStateStore
from engine.state.records import Progress, SplitRecord
from tests.unit.kernel.accounts import Released, opened
from tests.unit.kernel.runs import record_of


def test_bytes_come_back_once_when_the_last_record_is_settled() -> None:
    reservation = Released(100)
    ack = SplitTracker("s").begin(3, 3, reservation)

    ack.written(1)
    ack.dropped(1, "x")
    assert reservation.times == 0
    ack.dead(1, "n")

    assert reservation.times == 1
    ack.charge_growth(50)
    assert reservation.held == 100


def test_a_record_is_never_settled_twice() -> None:
    _, ack = opened(1)
    ack.written(1)

    with pytest.raises(EngineError, match="twice"):
        ack.dead(1, "n")


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
        ledger = Ledger(store, "r")  # type: ignore[arg-type]
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


def test_out_of_order_settlements_wait_for_the_watermark() -> None:
    tracker = SplitTracker("s")
    first, second, third = (tracker.begin(2, end) for end in (2, 4, 6))

    second.written(2)
    third.dropped(2, "n: old")
    assert [(start, end, tally.read) for start, end, tally in tracker.acked_out_of_order()] == [
        (2, 4, 2),
        (4, 6, 2),
    ]

    first.written(2)
    assert (tracker.position, tracker.acked_out_of_order()) == (6, [])


def test_batch_settled_by_an_earlier_attempt_is_complete() -> None:
    reservation = Released(10)
    tracker = SplitTracker("s", 2, acked_out_of_order=[(4, 6, Tally(read=2, dead=2))])

    front, known = tracker.begin(2, 4), tracker.begin(2, 6, reservation)
    assert (known.complete, reservation.times, tracker.position) == (True, 1, 2)
    assert tracker.live().dead == 2

    front.written(2)
    assert (tracker.position, tracker.covered.written, tracker.covered.dead) == (6, 2, 2)


@pytest.mark.parametrize(("count", "end"), [(2, 7), (1, 6), (3, 6)])
def test_a_batch_cut_otherwise_is_not_taken_for_one_that_was_settled(count: int, end: int) -> None:
    tracker = SplitTracker("s", 4, acked_out_of_order=[(4, 6, Tally(read=2, written=2))])

    assert not tracker.begin(count, end).complete
    # it may still come again in a later attempt
    assert tracker.acked_out_of_order() == [(4, 6, Tally(read=2, written=2))]


def test_of_two_cuts_at_one_place_the_later_is_remembered() -> None:
    """A resume may cut otherwise than the attempt before it; both begin where the ledger knows one batch."""
    tracker = SplitTracker(
        "s", 2, acked_out_of_order=[(4, 6, Tally(read=2, dead=2)), (6, 8, Tally(read=2, dead=2))]
    )
    tracker.begin(2, 4)

    tracker.begin(1, 5).written(1)

    assert tracker.acked_out_of_order() == [(4, 5, Tally(read=1, written=1)), (6, 8, Tally(read=2, dead=2))]


def test_batches_without_positions_are_not_distinguished() -> None:
    tracker = SplitTracker("s")
    tracker.begin(1, None)
    tracker.begin(1, None).written(1)

    assert tracker.acked_out_of_order() == []
