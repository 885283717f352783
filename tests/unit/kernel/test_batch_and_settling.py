"""Derived batches, and how comparing them settles acks."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.acks import SplitTracker, Tally
from engine.contract.batch import Batch, Drop, join
from engine.contract.component import BatchLimits
from engine.contract.keys import KeyRange
from engine.errors import RecordError, TransientError
from engine.flow.batching import Batcher
from engine.flow.settle import DropLabels, settle_derived, settle_written
from tests.unit.kernel.accounts import opened

OUTCOMES = st.sampled_from(["keep", "none", "drop", "list", "empty", "record error", "transient"])


def _outcome(kind: str, record: int) -> object:
    return {
        "keep": record,
        "none": None,
        "drop": Drop("too old"),
        "list": [record, record + 1],
        "empty": [],
        "record error": RecordError("bad"),
        "transient": TransientError("later"),
    }[kind]


@pytest.mark.slow
@given(st.lists(st.lists(OUTCOMES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_outcome_is_settled_once_and_the_reasons_add_up(batches: list[list[str]]) -> None:
    pairs = [opened(len(kinds)) for kinds in batches]
    given_batch = join([batch for batch, _ in pairs])
    kinds = [kind for batch in batches for kind in batch]
    derived = given_batch.outcomes([_outcome(kind, n) for n, kind in enumerate(kinds)])
    failed = [index for index, _ in derived.failures]

    dropped = settle_derived(given_batch, derived, failed, DropLabels("n"))
    settle_written(derived.origins, confirmed=True)
    for ack, count in given_batch.take(failed).origins:
        ack.dead(count, "n")

    seen = Counter(kinds)
    assert dropped == seen["none"] + seen["drop"] + seen["empty"]
    reasons: Counter[str] = Counter()
    for _, ack in pairs:
        assert ack.complete
        assert ack.tally.balanced
        reasons.update(ack.tally.drops)
    expected = {"n: filtered": seen["none"], "n: too old": seen["drop"], "n: empty list": seen["empty"]}
    assert reasons == {reason: count for reason, count in expected.items() if count}
    assert sum(ack.tally.dead for _, ack in pairs) == seen["record error"] + seen["transient"]
    assert sum(ack.tally.written for _, ack in pairs) == seen["keep"] + 2 * seen["list"]
    assert sum(ack.tally.forked for _, ack in pairs) == seen["list"]


@pytest.mark.slow
@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_cutting_and_joining_keeps_records_keys_and_origins_together(
    sizes: list[int], data: st.DataObject
) -> None:
    pairs = [opened(size) for size in sizes]
    owner = {id(ack): number for number, (_, ack) in enumerate(pairs)}
    whole = join([batch for batch, _ in pairs])
    expected = [(number, record) for number, size in enumerate(sizes) for record in range(size)]

    start, stop = sorted((data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole)))))
    cut = whole.slice(start, stop)
    chosen = [index for index in range(len(cut)) if data.draw(st.booleans())]
    for part, wanted in (
        (cut, expected[start:stop]),
        (cut.take(chosen), [expected[start:stop][index] for index in chosen]),
    ):
        owners = [owner[id(ack)] for ack, count in part.origins for _ in range(count)]
        assert list(zip(owners, part.records, strict=True)) == wanted
        assert part.keys.to_list() == [f"k/{record}" for _, record in wanted]


def test_a_change_of_another_length_is_refused() -> None:
    batch, _ = opened(3)

    for wrong in (lambda: batch.replace([1, 2]), lambda: batch.select([1, 0]), lambda: batch.outcomes([1])):
        with pytest.raises(ValueError, match="3"):
            wrong()  # type: ignore[no-untyped-call]


def test_drops_of_two_steps_in_one_transform_are_added_up() -> None:
    batch, ack = opened(6)
    derived = (
        batch.select([1, 1, 1, 1, 1, 0], "late").select([1, 1, 1, 1, 0], "early").outcomes([1, 2, None, 3])
    )

    assert settle_derived(batch, derived, (), DropLabels("n")) == 3
    assert ack.tally.drops == {"n: late": 1, "n: early": 1, "n: filtered": 1}


def test_drops_are_counted_on_their_source_batch() -> None:
    """Also where a list of the same batch hides it, and for the reason it was dropped for."""
    (plain, plain_ack), (fanned, fanned_ack), (late, late_ack) = opened(2), opened(2), opened(2)
    given = join([plain, fanned, late])
    derived = given.select([1, 1, 1, 1, 1, 0], "late").outcomes([0, 1, [0, 0], None, Drop("odd")])

    assert derived.drops == {"late": 1, "filtered": 1, "odd": 1}
    assert settle_derived(given, derived, (), DropLabels("n")) == 3
    assert (plain_ack.pending, plain_ack.tally) == (2, Tally(read=2))
    assert (fanned_ack.pending, late_ack.pending) == (2, 0)
    assert fanned_ack.tally == Tally(read=2, forked=1, dropped=1, drops={"n: filtered": 1})
    assert late_ack.tally == Tally(read=2, dropped=2, drops={"n: late": 1, "n: odd": 1})


def test_records_omitted_by_a_transform_count_as_filtered() -> None:
    (one, first), (other, second) = opened(2), opened(3)
    given = join([one, other])

    assert settle_derived(given, given.take([1, 2, 3]).select([1, 0, 1], "late"), (), DropLabels("n")) == 3
    assert first.tally.drops == {"n: filtered": 1}
    assert second.tally.drops == {"n: late": 1, "n: filtered": 1}


def test_failures_survive_a_second_step_and_cannot_come_from_it() -> None:
    batch, _ = opened(3)
    derived = batch.outcomes([RecordError("bad"), 1, 2]).replace([10, 20])

    assert [index for index, _ in derived.failures] == [0]
    with pytest.raises(ValueError, match="first"):
        derived.outcomes([RecordError("worse"), 20])


def test_a_record_beside_a_list_keeps_its_key() -> None:
    batch, _ = opened(4)

    derived = batch.outcomes([0, [1, 1], [], 3])

    assert derived.keys.to_list() == ["k/0", "k/1/0", "k/1/1", "k/3"]


def test_the_price_of_a_call_is_shared_without_losing_a_token() -> None:
    pairs = [opened(size) for size in (1, 2, 4)]

    join([batch for batch, _ in pairs]).spend(100, 11, 0.7)

    assert sum(ack.tally.tokens_in for _, ack in pairs) == 100
    assert sum(ack.tally.tokens_out for _, ack in pairs) == 11
    assert sum(ack.tally.cost_usd for _, ack in pairs) == pytest.approx(0.7)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), max_size=12),
    st.integers(0, 6),
    st.integers(0, 100),
)
def test_batches_are_cut_to_size_without_loss_or_reordering(
    incoming: list[tuple[int, int]], records: int, nbytes: int
) -> None:
    batcher, out, place = Batcher(BatchLimits(records=records, nbytes=nbytes)), [], 0
    for count, each in incoming:
        batch = Batch(
            list(range(place, place + count)), KeyRange("", place, place + count), nbytes=count * each
        )
        place += count
        out += batcher.add(batch)
    last = batcher.flush()
    out += [last] if len(last) else []

    assert [record for batch in out for record in batch.records] == list(range(place))
    assert [key for batch in out for key in batch.keys.to_list()] == [str(one) for one in range(place)]
    for batch in out:
        assert len(batch) > 0
        assert not records or len(batch) <= records
        assert not nbytes or batch.nbytes <= nbytes or len(batch) == 1
    assert len(batcher.flush()) == 0


def test_a_record_over_the_byte_limit_passes_alone() -> None:
    batcher = Batcher(BatchLimits(nbytes=100))
    small, large = Batch([1, 2], ["a", "b"], nbytes=20), Batch([3], ["c"], nbytes=5000)

    assert [batch.records for batch in [*batcher.add(small), *batcher.add(large)]] == [[1, 2], [3]]


@pytest.mark.slow
@given(st.data())
def test_the_watermark_is_the_prefix_that_is_settled(data: st.DataObject) -> None:
    moved: list[object] = []
    tracker = SplitTracker("s", on_progress=lambda one: moved.append(one.position))
    counts = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=8))
    acks = [tracker.begin(count, end) for end, count in enumerate(counts, 1)]
    todo = data.draw(st.permutations([n for n, count in enumerate(counts) for _ in range(count)]))
    left = dict(enumerate(counts))

    for number in todo:
        how = data.draw(st.sampled_from(["written", "dropped", "dead", "forked"]))
        if how == "forked":
            acks[number].fork(2)
            acks[number].written(3)
        elif how == "dropped":
            acks[number].dropped(1, "x")
        elif how == "dead":
            acks[number].dead(1, "x")
        else:
            acks[number].written(1)
        left[number] -= 1
        prefix = next((n for n, count in left.items() if count), len(counts))
        assert (tracker.position or 0) == prefix
        assert tracker.covered.read == sum(counts[:prefix])
        assert tracker.covered.balanced
    assert tracker.in_flight == 0
    assert moved == sorted(moved, key=lambda place: int(str(place or 0)))
    assert not tracker.done
    tracker.finish_reading()
    assert tracker.done
