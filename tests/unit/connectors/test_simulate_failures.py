from __future__ import annotations

from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from connectors.models import BlobSource, LogSource
from connectors.transforms import (
    MARKED_FIELDS,
    FailurePattern,
    SimulateFailures,
    SimulateFailuresParams,
    simulate_failures,
)
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import RecordError
from tests.examples import examples

EXACT = settings(deadline=None, derandomize=True, database=None, max_examples=examples(100))

seeds = st.integers(0, 9)
whole_percentages = st.integers(0, 100)


def transform(percentage: float, field: str | None = None, seed: str = "s") -> SimulateFailures:
    component = SimulateFailures(SimulateFailuresParams(percentage=percentage, field=field))
    component.ctx = Context(seed=seed)
    return component


def logs(start: int, stop: int) -> Batch:
    records = [MappingProxyType({"id": str(n), "message": f"m{n}"}) for n in range(start, stop)]
    return Batch(list(records), KeyRange("k/", start, stop))


def apply(component: SimulateFailures, batch: Batch) -> Batch:
    derived = component.apply(batch)
    assert isinstance(derived, Batch)
    return derived


def marked(batch: Batch) -> list[str]:
    return [record["id"] for record in batch.records if record["message"].startswith("[DLQ]")]


@EXACT
@given(percentage=whole_percentages, block=st.integers(0, 10**12), seed=seeds)
def test_a_whole_percentage_is_exact_in_every_aligned_hundred(percentage: int, block: int, seed: int) -> None:
    ordinals = range(100 * block, 100 * block + 100)
    assert sum(FailurePattern(percentage, seed).is_failure(ordinals)) == percentage


@pytest.mark.slow
@EXACT
@given(percentage=whole_percentages, start=st.integers(0, 500), size=st.integers(0, 500), seed=seeds)
def test_any_run_of_ordinals_has_nearly_the_share(percentage: int, start: int, size: int, seed: int) -> None:
    found = sum(FailurePattern(percentage, seed).is_failure(range(start, start + size)))
    assert abs(found - size * percentage / 100) <= 2
    from_the_front = sum(FailurePattern(percentage, seed).is_failure(range(size)))
    assert abs(from_the_front - size * percentage / 100) <= 1


@pytest.mark.slow
@EXACT
@given(tenths=st.integers(0, 1000), seed=seeds)
def test_a_fractional_percentage_is_exact_over_a_thousand(tenths: int, seed: int) -> None:
    pattern = FailurePattern(tenths / 10, seed)
    assert sum(pattern.is_failure(range(3000))) == 3 * tenths
    for block in range(30):
        in_block = sum(pattern.is_failure(range(100 * block, 100 * block + 100)))
        assert in_block in (tenths // 10, tenths // 10 + 1)


@pytest.mark.slow
@EXACT
@given(
    percentage=st.floats(0, 100),
    ordinals=st.lists(st.integers(0, 2000), max_size=50),
    bounds=st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
)
def test_whether_an_ordinal_fails_does_not_depend_on_others(
    percentage: float, ordinals: list[int], bounds: tuple[int, int]
) -> None:
    pattern = FailurePattern(percentage, "seed")
    every = pattern.is_failure(range(2001))
    assert pattern.is_failure(ordinals) == [every[ordinal] for ordinal in ordinals]
    start, stop = sorted(bounds)
    assert pattern.is_failure(range(start, stop)) == every[start:stop]
    assert pattern.is_failure(range(start, stop, 3)) == every[start:stop:3]


def test_the_seed_chooses_the_places() -> None:
    chosen = {tuple(FailurePattern(20, seed).is_failure(range(100))) for seed in range(5)}
    assert len(chosen) == 5


def test_the_places_differ_from_block_to_block() -> None:
    pattern = FailurePattern(5, 1)
    blocks = {tuple(pattern.is_failure(range(100 * block, 100 * block + 100))) for block in range(20)}
    assert len(blocks) == 20


@pytest.mark.parametrize(("percentage", "failures"), [(-5, 0), (0, 0), (100, 100), (250, 100)])
def test_a_percentage_is_clamped(percentage: float, failures: int) -> None:
    assert sum(FailurePattern(percentage).is_failure(range(100))) == failures
    assert SimulateFailuresParams(percentage=percentage).percentage == failures
    found = simulate_failures([{"message": "a"}] * 100, percentage)
    assert sum(record["message"] != "a" for record in found) == failures


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "many"])
def test_a_percentage_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match="percentage"):
        SimulateFailuresParams.model_validate({"percentage": value})


def test_no_percentage_means_no_failures() -> None:
    assert SimulateFailuresParams.model_validate({"percentage": None}).percentage == 0


@pytest.mark.slow
@EXACT
@given(percentage=whole_percentages, cuts=st.lists(st.integers(0, 1000), max_size=8))
def test_the_same_records_fail_however_they_are_batched(percentage: int, cuts: list[int]) -> None:
    edges = sorted({0, 1000, *cuts})
    found: list[str] = []
    for start, stop in pairwise(edges):
        found += marked(apply(transform(percentage), logs(start, stop)))
    assert len(found) == 10 * percentage
    assert found == marked(apply(transform(percentage), logs(0, 1000)))


def test_the_same_records_fail_after_a_filter() -> None:
    batch = logs(0, 400)
    kept = batch.select([index % 3 == 0 for index in range(400)])
    everywhere = set(marked(apply(transform(30), batch)))
    assert set(marked(apply(transform(30), kept))) == everywhere & {record["id"] for record in kept.records}


def test_only_marked_records_are_copied() -> None:
    batch = logs(0, 100)
    before = [dict(record) for record in batch.records]
    derived = apply(transform(10), batch)
    assert [dict(record) for record in batch.records] == before
    same = [new is old for new, old in zip(derived.records, batch.records, strict=True)]
    assert same.count(False) == 10
    assert derived.keys is batch.keys
    changed = [record for record, kept in zip(derived.records, same, strict=True) if not kept]
    assert all(record["message"] == f"[DLQ]m{record['id']}" for record in changed)


def test_a_batch_without_failures_is_handed_on() -> None:
    batch = logs(0, 100)
    assert apply(transform(0), batch) is batch


def test_marking_twice_adds_nothing() -> None:
    once = apply(transform(50), logs(0, 100))
    assert apply(transform(50), once).records == once.records


def test_a_chosen_record_without_a_field_fails_alone() -> None:
    batch = Batch([{"message": "a"}, {"name": "b"}, {"message": None}], ["0", "1", "2"])
    derived = apply(transform(100), batch)
    assert derived.records == [{"message": "[DLQ]a"}]
    assert derived.keys.to_list() == ["0"]
    assert [index for index, _ in derived.failures] == [1, 2]
    error = derived.failures[0][1]
    assert isinstance(error, RecordError)
    assert str(error) == (
        "cannot be marked as a failure: it has no text field among "
        "file_name, message, distinct_id, source_file_path"
    )


@pytest.mark.parametrize("name", MARKED_FIELDS)
def test_the_mark_goes_to_the_field_of_the_kind(name: str) -> None:
    (record,) = simulate_failures([{"id": "1", name: "text"}], 100)
    assert record == {"id": "1", name: "[DLQ]text"}


def test_the_first_known_field_gets_the_mark() -> None:
    record = dict.fromkeys(reversed(MARKED_FIELDS), "text")
    assert simulate_failures([record], 100) == [{**record, "file_name": "[DLQ]text"}]


def test_a_named_field_gets_the_mark_and_no_other() -> None:
    batch = Batch([{"message": "a", "title": "b"}, {"message": "c"}], ["0", "1"])
    derived = apply(transform(100, field="title"), batch)
    assert derived.records == [{"message": "a", "title": "[DLQ]b"}]
    assert "no text field 'title'" in str(derived.failures[0][1])


def test_models_are_marked_as_models() -> None:
    log = LogSource(id="1", timestamp="t", level="INFO", message="hello")
    (failing,) = simulate_failures([log], 100)
    assert failing == LogSource(id="1", timestamp="t", level="INFO", message="[DLQ]hello")
    assert log.message == "hello"


@EXACT
@given(size=st.integers(0, 300), percentage=whole_percentages, seed=seeds)
def test_a_list_has_the_exact_share_rounded_half_up(size: int, percentage: int, seed: int) -> None:
    records = [{"message": str(n)} for n in range(size)]
    found = simulate_failures(records, percentage, seed=seed)
    half_up = (2 * size * percentage + 100) // 200
    assert sum(record["message"].startswith("[DLQ]") for record in found) == half_up
    assert [record["message"].removeprefix("[DLQ]") for record in found] == [str(n) for n in range(size)]


def test_a_fifth_of_four_is_one() -> None:
    assert sum(record["message"] != "a" for record in simulate_failures([{"message": "a"}] * 4, 20)) == 1


def test_a_list_with_an_unmarkable_record_is_refused() -> None:
    with pytest.raises(RecordError, match="cannot be marked"):
        simulate_failures([{"name": "a"}], 100)


def test_mixed_kinds_are_marked_each_on_its_own_field() -> None:
    blob = BlobSource(
        id="1", bucket_name="b", file_path="/", file_name="f", file_size=1, permissions=[], ingested_at="t"
    )
    records: list[BaseModel | dict[str, Any]] = [blob, {"distinct_id": "user_1"}]
    first, second = simulate_failures(records, 100)
    assert isinstance(first, BlobSource)
    assert first.file_name == "[DLQ]f"
    assert second == {"distinct_id": "[DLQ]user_1"}


def test_chosen_records_can_die_here_instead_of_being_marked() -> None:
    component = SimulateFailures(SimulateFailuresParams(percentage=12.5, action="dead_letter"))
    component.ctx = Context(seed="s")

    derived = apply(component, logs(0, 800))

    assert marked(derived) == []
    assert len(derived.records) == 700
    assert {error.kind for _, error in derived.failures if isinstance(error, RecordError)} == {
        "SimulatedFailure"
    }
