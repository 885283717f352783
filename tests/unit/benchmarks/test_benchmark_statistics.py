"""Medians, percentiles, intervals and pairing on values calculated by hand."""

from __future__ import annotations

import pytest

from benchmarks.statistics import median, median_interval, paired, percentile, summarise


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([9.0, 1.0, 5.0], 5.0), ([4.0, 1.0, 3.0, 2.0], 2.5), ([-1.0, 1.0], 0.0)],
)
def test_median_is_the_middle_value_or_the_mean_of_the_two(values: list[float], expected: float) -> None:
    assert median(values) == expected


def test_nothing_has_no_median_and_no_percentile() -> None:
    with pytest.raises(ValueError, match="no median"):
        median([])
    with pytest.raises(ValueError, match="no percentile"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0.1, 1), (50, 500), (99, 990), (99.9, 999), (99.91, 1000), (100, 1000)]
)
def test_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile(list(range(1000, 0, -1)), percent) == expected


@pytest.mark.parametrize("percent", [0, -1, 100.1])
def test_percentile_outside_its_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="above 0 and up to 100"):
        percentile([1.0], percent)


def test_interval_of_equal_values_is_that_value() -> None:
    assert median_interval([2.0] * 10, seed=1) == (2.0, 2.0)


@pytest.mark.slow
def test_interval_surrounds_the_median_and_stays_within_the_range() -> None:
    values = [float(value) for value in range(1, 42)]
    interval = median_interval(values, seed=1)
    assert interval is not None
    low, high = interval
    # The order statistics that a binomial argument gives for n = 41 are the 14th and the 28th value.
    assert 12 <= low <= 16
    assert 26 <= high <= 30


def test_interval_repeats_with_its_seed() -> None:
    values = [1.0, 5.0, 2.0, 8.0, 3.0, 9.5, 4.25]
    assert median_interval(values, seed=7) == median_interval(values, seed=7)


def test_two_values_have_no_interval() -> None:
    assert median_interval([1.0, 2.0], seed=1) is None
    assert summarise([1.0, 2.0], seed=1).interval is None


def test_summary_has_count_median_and_range() -> None:
    summary = summarise([3.0, 1.0, 2.0], seed=1)
    assert (summary.n, summary.median, summary.low, summary.high) == (3, 2.0, 1.0, 3.0)


def test_ratios_are_taken_within_rounds() -> None:
    # The machine was ten times slower in round 2: the medians would say 1.1, the pairs say 2.
    arm = {1: 2.0, 2: 20.0, 3: 2.2}
    reference = {1: 1.0, 2: 10.0, 3: 1.1}
    assert paired(arm, reference, "ratio") == [2.0, 2.0, 2.0]


def test_differences_are_taken_within_rounds() -> None:
    assert paired({1: 5.0, 2: 7.0}, {1: 4.0, 2: 9.0}, "difference") == [1.0, -2.0]


def test_rounds_without_both_arms_make_no_pair() -> None:
    assert paired({1: 2.0, 2: 3.0}, {2: 1.5, 3: 9.0}, "ratio") == [2.0]
    assert paired({1: 2.0}, {2: 1.0}, "ratio") == []


def test_a_reference_of_zero_makes_no_ratio_but_a_difference() -> None:
    assert paired({1: 2.0}, {1: 0.0}, "ratio") == []
    assert paired({1: 2.0}, {1: 0.0}, "difference") == [2.0]
