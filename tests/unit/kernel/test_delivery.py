"""One batch at one node: retries, bad records, and outages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Kind
from engine.contract.keys import KeyList
from engine.errors import BatchError, OutageError, RecordError, TransientError
from engine.flow.delivery import Delivery, Outcome
from engine.flow.retry import NodeHealth, RetryPolicy
from engine.flow.stats import NodeStats
from engine.testing import ScriptedClock
from tests.unit.kernel.accounts import opened

pytestmark = pytest.mark.anyio

Reply = Callable[[Sequence[int]], Exception | None]


class Node:
    """A sink that answers each call by `reply(records)`, and what it received."""

    def __init__(
        self, reply: Reply, *, derives: bool = False, answering: Sequence[bool] = (), **policy: object
    ) -> None:
        self.reply = reply
        self.answering = list(answering)
        """What the other side says when it is asked for other work; False after that."""
        self.calls: list[list[int]] = []
        self.delivered: list[int] = []
        self.dead: dict[int, RecordError] = {}
        self.attempts: dict[int, int] = {}
        self.health = NodeHealth()
        self.clock = ScriptedClock(jump=True)
        self.stats = NodeStats("n", Kind.SINK, "sink")
        options = {"attempts": 3, "base": 1.0, "cap": 4.0, "outage_limit": 60.0} | policy
        self.delivery = Delivery(
            call=self._call,
            emit=self._emit,
            dead_letter=self._dead_letter,
            policy=RetryPolicy(**options),  # type: ignore[arg-type]
            health=self.health,
            stats=self.stats,
            clock=self.clock,
            is_answering=self._is_answering,
            derives=derives,
        )

    async def _is_answering(self) -> bool:
        return bool(self.answering) and self.answering.pop(0)

    async def _call(self, batch: Batch) -> Outcome:
        self.calls.append(list(batch.records))
        error = self.reply(batch.records)
        if error is not None:
            raise error
        return Outcome(batch)

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        assert outcome.derived is not None
        self.delivered += outcome.derived.records

    async def _dead_letter(
        self, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        for index, error in failures:
            assert batch.records[index] not in self.dead
            self.dead[batch.records[index]] = error
            self.attempts[batch.records[index]] = attempts

    async def deliver(self, count: int) -> None:
        await self.delivery.deliver(opened(count)[0])


def scripted(*replies: Exception | None) -> Reply:
    """The first calls are answered by these, all others well."""
    rest = list(replies)
    return lambda records: rest.pop(0) if rest else None


def poisoned(*bad: int) -> Reply:
    """Every request that holds one of these fails as a whole, as if it were the other side's fault."""
    return lambda records: TransientError("500") if set(bad) & set(records) else None


async def test_a_lone_record_dies_when_the_other_side_does_other_work() -> None:
    node = Node(poisoned(0), answering=[True])

    await node.deliver(1)

    assert {record: error.kind for record, error in node.dead.items()} == {0: "RetriesExhausted"}
    assert node.calls == [[0]] * 4  # one more than `attempts`, begun after the answer
    assert node.attempts == {0: 4}


async def test_a_lone_record_whose_outage_has_just_ended_is_delivered() -> None:
    down = TransientError("503")
    node = Node(scripted(down, down, down), answering=[True])

    await node.deliver(1)

    assert (node.delivered, node.dead) == ([0], {})


@pytest.mark.parametrize("count", [2, 7, 64])
async def test_of_records_that_all_fail_each_dies_when_the_other_side_works(count: int) -> None:
    node = Node(poisoned(*range(count)), answering=[True] * count)

    await node.deliver(count)

    assert sorted(node.dead) == list(range(count))
    assert node.delivered == []


async def test_a_lone_record_is_waited_for_while_the_other_side_does_nothing() -> None:
    node = Node(scripted(*[TransientError("500")] * 5), answering=[False] * 9)

    await node.deliver(1)

    assert (node.delivered, node.dead) == ([0], {})


async def test_a_side_that_stops_answering_kills_no_more_records() -> None:
    node = Node(poisoned(*range(64)), answering=[True])

    with pytest.raises(OutageError):
        await node.deliver(64)

    assert node.dead == {}


async def test_a_transient_failure_is_tried_again_until_it_passes() -> None:
    node = Node(scripted(TransientError("503"), TransientError("503")))

    await node.deliver(3)

    assert (node.delivered, node.dead, len(node.calls)) == ([0, 1, 2], {}, 3)
    assert node.stats.retries == 2


async def test_the_other_side_decides_how_long_to_wait_within_a_limit() -> None:
    hints = [TransientError("429", retry_after=7.0), TransientError("429", retry_after=1e6)]
    node = Node(scripted(*hints), outage_limit=600.0)

    await node.deliver(1)

    assert node.clock.slept == [7.0, 120.0]


async def test_no_hint_makes_a_wait_longer_than_the_outage_limit() -> None:
    node = Node(lambda records: TransientError("503", retry_after=40.0), outage_limit=60.0)

    with pytest.raises(OutageError, match="could deliver nothing for 60 s"):
        await node.deliver(1)

    assert node.clock.slept == [40.0, 20.0]


async def test_waits_grow_and_are_capped() -> None:
    policy = RetryPolicy(base=1.0, cap=4.0)

    assert all(policy.delay(1, None) <= 2.0 for _ in range(50))
    assert all(policy.delay(40, None) <= 4.0 for _ in range(50))


async def test_only_what_failed_is_sent_again() -> None:
    node = Node(scripted(BatchError({1: TransientError("busy"), 2: RecordError("bad", kind="Bad")})))

    await node.deliver(4)

    assert node.calls == [[0, 1, 2, 3], [1]]
    assert sorted(node.delivered) == [0, 1, 3]
    assert node.dead[2].kind == "Bad"


async def test_transform_is_retried_for_records_without_an_outcome() -> None:
    node = Node(scripted(BatchError({1: RecordError("bad")})), derives=True)

    await node.deliver(3)

    assert node.calls == [[0, 1, 2], [0, 2]]
    assert (node.delivered, list(node.dead)) == ([0, 2], [1])


async def test_the_record_to_blame_is_found_when_it_is_not_named() -> None:
    node = Node(lambda records: RecordError("no") if 2 in records else None)

    await node.deliver(4)

    assert (node.delivered, list(node.dead)) == ([0, 1, 3], [2])


@pytest.mark.parametrize("bad", [(0,), (7,), (255,), (256,), (511,), (0, 511), (3, 4, 5), (510, 511)])
async def test_poison_in_a_batch_fails_alone_with_a_single_worker(bad: tuple[int, ...]) -> None:
    node = Node(poisoned(*bad))

    await node.deliver(512)

    assert sorted(node.dead) == sorted(bad)
    assert sorted(node.delivered) == [record for record in range(512) if record not in bad]
    assert {error.kind for error in node.dead.values()} == {"RetriesExhausted"}
    assert len(node.calls) < 120


async def test_poison_record_dies_if_others_got_through() -> None:
    node = Node(poisoned(0))
    sleep = node.clock.sleep

    async def sleep_while_others_work(seconds: float) -> None:
        await sleep(seconds)
        node.health.succeeded()

    node.clock.sleep = sleep_while_others_work  # type: ignore[method-assign]

    await node.deliver(1)

    assert list(node.dead) == [0]
    assert node.attempts[0] == 3


async def test_records_keep_their_order_while_the_bad_one_is_looked_for() -> None:
    node = Node(poisoned(5), attempts=1)
    batch, _ = opened(8)
    batch.keys = KeyList(["same"] * 8)

    await node.delivery.deliver(batch)

    assert node.delivered == [0, 1, 2, 3, 4, 6, 7]


async def test_an_outage_stops_the_run_and_fills_no_dead_letters() -> None:
    node = Node(lambda records: TransientError("connection refused"))

    with pytest.raises(OutageError, match="connection refused"):
        await node.deliver(100)

    assert (node.dead, node.delivered) == ({}, [])
    assert 60 <= node.clock.monotonic() < 80


async def test_after_an_outage_that_ends_in_time_everything_arrives() -> None:
    node = Node(lambda records: TransientError("down") if node.clock.monotonic() < 40 else None)

    await node.deliver(100)

    assert sorted(node.delivered) == list(range(100))
    assert node.dead == {}


async def test_half_a_batch_accepted_and_then_an_outage_kills_nothing() -> None:
    replies = [BatchError({index: TransientError("busy") for index in range(50, 100)})]
    node = Node(lambda records: replies.pop() if replies else TransientError("down"))

    with pytest.raises(OutageError):
        await node.deliver(100)

    assert node.delivered == list(range(50))
    assert node.dead == {}


@pytest.mark.slow
async def test_outage_during_the_search_kills_at_most_the_bad_record() -> None:
    node = Node(lambda records: TransientError("down") if len(node.calls) > 6 or 300 in records else None)

    with pytest.raises(OutageError):
        await node.deliver(512)

    assert set(node.dead) <= {300}


async def test_a_node_that_must_not_hold_up_its_siblings_gives_up_at_once() -> None:
    node = Node(lambda records: TransientError("down"), dead_letter_on_stall=True)

    await node.deliver(3)

    assert {error.kind for error in node.dead.values()} == {"Stalled"}
    assert sorted(node.dead) == [0, 1, 2]


async def test_giving_up_at_once_spares_the_neighbours_of_a_bad_record() -> None:
    node = Node(poisoned(3), dead_letter_on_stall=True)

    await node.deliver(10)

    assert sorted(node.dead) == [3]


async def test_updates_of_one_key_keep_their_order_after_an_outage() -> None:
    node = Node(lambda records: TransientError("down") if node.clock.monotonic() < 30 else None)
    batch, _ = opened(6)
    batch.keys = KeyList(["a", "b", "a", "b", "a", "b"])

    await node.delivery.deliver(batch)

    assert [record for record in node.delivered if record % 2 == 0] == [0, 2, 4]
    assert [record for record in node.delivered if record % 2] == [1, 3, 5]


async def test_retry_after_is_honoured_while_searching_bad_records() -> None:
    def busy(records: Sequence[int]) -> TransientError | None:
        return TransientError("429", retry_after=9.0) if 1 in records else None

    node = Node(busy, attempts=1, outage_limit=7 * 9.0)

    await node.deliver(4)

    assert sorted(node.dead) == [1]
    assert set(node.clock.slept) == {9.0}


BUSY = TransientError("429", retry_after=5.0, throttled=True)


async def test_throttling_does_not_count_against_a_record() -> None:
    node = Node(scripted(*[BUSY] * 9), attempts=2)
    node.health.successes = 7

    await node.deliver(2)

    assert (node.delivered, node.dead) == ([0, 1], {})
    assert len(node.calls) == 10


async def test_other_failures_count_between_throttled_ones() -> None:
    """And while somebody else gets through all the time, what keeps failing is at fault itself."""

    def reply(records: Sequence[int]) -> Exception | None:
        node.health.succeeded()
        return BUSY if len(node.calls) % 2 else TransientError("500")

    node = Node(reply, attempts=3)
    await node.deliver(1)

    assert list(node.dead) == [0]
    assert len(node.calls) == 6


async def test_longest_requested_wait_counts_for_mixed_failures() -> None:
    failures = {1: TransientError("500"), 2: TransientError("429", retry_after=5.0, throttled=True)}
    node = Node(scripted(BatchError(failures), TransientError("500"), TransientError("500")), attempts=3)

    await node.deliver(3)

    assert node.clock.slept[0] == 5.0
    assert len(node.calls) > 3  # the failure that was none of a busy side has used up a try


async def test_a_side_that_is_too_busy_for_anybody_is_an_outage() -> None:
    node = Node(lambda records: BUSY)

    with pytest.raises(OutageError, match="'n' could deliver nothing for 6"):
        await node.deliver(1)

    assert node.dead == {}
    assert sum(node.clock.slept) < 90


async def test_record_throttled_beyond_the_outage_limit_is_at_fault() -> None:
    """Such as a document with more tokens than may be sent in any minute, while others get through."""

    def reply(records: Sequence[int]) -> Exception | None:
        if 1 in records:
            node.health.succeeded()
            return BUSY
        return None

    node = Node(reply)
    await node.deliver(3)

    assert (sorted(node.delivered), sorted(node.dead)) == ([0, 2], [1])
    assert sum(node.clock.slept) >= 60


async def test_on_stall_dead_letter_does_not_wait_for_a_throttled_side() -> None:
    node = Node(lambda records: BUSY, dead_letter_on_stall=True)

    await node.deliver(2)

    assert sorted(node.dead) == [0, 1]


class Settling(Node):
    """Settles the acks of what it gets."""

    async def _emit(self, batch: Batch, outcome: Outcome) -> None:
        for ack, count in batch.origins:
            ack.written(count)

    async def _dead_letter(
        self, batch: Batch, failures: Sequence[tuple[int, RecordError]], attempts: int
    ) -> None:
        for ack, count in batch.take([index for index, _ in failures]).origins:
            ack.dead(count, "n")


async def test_an_account_is_complete_after_any_outcome() -> None:
    batch, ack = opened(16, SplitTracker("s"))

    await Settling(poisoned(3, 9)).delivery.deliver(batch)

    assert (ack.tally.written, ack.tally.dead, ack.complete) == (14, 2, True)


async def test_small_batch_survives_an_outage_after_earlier_success() -> None:
    node = Node(lambda records: TransientError("503"))

    def reply(records: Sequence[int]) -> Exception:
        if len(node.calls) == 3:
            node.health.succeeded()  # another worker's batch, the last before the lights went out
        return TransientError("503")

    node.reply = reply

    with pytest.raises(OutageError):
        await node.deliver(3)

    assert node.dead == {}


async def test_what_a_partial_failure_left_unconfirmed_stays_so() -> None:
    seen: list[bool] = []
    node = Node(scripted(BatchError({1: RecordError("bad")}, confirmed=False)))
    emit = node._emit

    async def watch(batch: Batch, outcome: Outcome) -> None:
        seen.append(outcome.confirmed)
        await emit(batch, outcome)

    node.delivery.emit = watch  # type: ignore[method-assign]

    await node.deliver(3)

    assert (node.delivered, seen) == ([0, 2], [False])
