"""Dead letters of single list items: each has its own key, and the counts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.batch import Batch, DeadItem, Drop
from engine.contract.dead_letter import DeadLetter
from engine.errors import RecordError
from engine.execution.report import RunReport
from engine.plan.model import DeadLetterSettings
from engine.state import DeadLetterFilter
from engine.state.memory import MemoryStateStore
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import Apply, Wait, run

BAD = RecordError("it is bad", kind="Bad")
DEAD = DeadItem({"item": "bad"}, BAD)


async def ran(
    outcomes: Sequence[Any], kind: type[Apply] = Apply
) -> tuple[RunReport, Mapping[str, Any], Mapping[str, DeadLetter]]:
    """The report of a run whose records become these; what arrived, and the dead letters, by key."""
    sink = MemorySink()

    def apply(batch: Batch) -> Batch:
        return batch.outcomes([outcomes[number] for number in batch.records])

    source = MemorySource([list(range(len(outcomes)))])
    plan = linear_plan(source, kind(apply), sink, dead_letters=DeadLetterSettings())
    store = MemoryStateStore()
    report = await run(plan, store)
    async with store:
        letters = await store.dead_letters(DeadLetterFilter())
    return report, dict(zip(sink.keys, sink.records, strict=True)), {one.key: one for one in letters}


@pytest.mark.parametrize("kind", [Apply, Wait])
async def test_an_item_fails_alone_with_its_record_and_key(kind: type[Apply]) -> None:
    report, arrived, letters = await ran([["a", DEAD, "b"], "c"], kind)
    assert arrived == {"all/0/0": "a", "all/0/2": "b", "all/1": "c"}
    (letter,) = letters.values()
    assert (letter.key, letter.record, letter.error_type) == ("all/0/1", {"item": "bad"}, "Bad")
    tally = report.tally
    assert (tally.read, tally.forked, tally.written, tally.dead) == (2, 2, 3, 1)
    assert report.nodes[1].dead == 1


async def test_all_items_of_a_record_may_die_beside_drops_and_errors() -> None:
    report, arrived, letters = await ran([[DEAD, DEAD], Drop("empty"), BAD, ["a"]])
    assert arrived == {"all/3/0": "a"}
    assert sorted(letters) == ["all/0/0", "all/0/1", "all/2"]
    assert (report.tally.forked, report.tally.dropped, report.tally.dead) == (1, 1, 3)


def test_dead_items_stay_with_what_is_derived_further() -> None:
    batch = Batch([1, 2], ["x", "y"])
    derived = batch.outcomes([["a", DEAD], ["b"]]).replace(["A", "B"]).select([1, 0])
    assert derived.keys.to_list() == ["x/0"]
    assert derived.dead_items is not None
    assert derived.dead_items.keys.to_list() == ["x/1"]
    assert derived.dead_items.failures == [(0, BAD)]


ITEMS = st.lists(st.sampled_from(["a", DEAD]), max_size=4)


@pytest.mark.slow
@given(
    outcomes=st.lists(st.one_of(ITEMS, st.just("plain"), st.just(None), st.just(BAD)), min_size=1, max_size=8)
)
async def test_every_item_arrives_or_is_a_dead_letter(outcomes: list[Any]) -> None:
    report, arrived, letters = await ran(outcomes)
    expected = {
        f"all/{number}/{place}": item is DEAD
        for number, outcome in enumerate(outcomes)
        if isinstance(outcome, list)
        for place, item in enumerate(outcome)
    }
    assert {key for key, dead in expected.items() if not dead} == {
        key for key in arrived if key.count("/") == 2
    }
    assert {key for key, dead in expected.items() if dead} == {key for key in letters if key.count("/") == 2}
    assert report.tally.balanced
