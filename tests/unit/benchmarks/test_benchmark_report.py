"""Tables, goals and stored results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.model import CONTROL, Goal
from benchmarks.report import comparison, control_is_sound, reached, render
from benchmarks.results import Result, Sample, load, store


def result(**changes: object) -> Result:
    """Five rounds: the engine takes 1.1 times the chain's second, the control what the chain takes."""
    seconds = {"chain": 1.0, "engine": 1.1, CONTROL: 1.0}
    samples = [
        Sample(
            number, 0, arm, 1000, "same", {"wall": wall * number, "cpu": wall * number, "rate": 1000 / number}
        )
        for number in range(1, 6)
        for arm, wall in seconds.items()
    ]
    base = Result(
        name="kernel",
        description="map and filter",
        unit="records",
        metric="wall",
        comparison="ratio",
        reference="chain",
        arms={"chain": [], "engine": [Goal("ratio", "<=", 1.15)], CONTROL: []},
        seed=1,
        rounds=5,
        started_at="2026-01-02T03:04:05+00:00",
        machine={"cpu_model": "A Processor", "usable_cores": 2},
        python={"version": "3.11.9"},
        commit={"id": "0123456789abcdef", "dirty": False},
        samples=samples,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_table_shows_every_arm_with_its_paired_ratio() -> None:
    lines = render(result()).splitlines()
    assert lines[0] == "kernel: map and filter"
    assert "2 x A Processor; Python 3.11.9; 0123456789ab; 2026-01-02" in lines[1]
    rows = {line.split()[0]: line for line in lines[3:]}
    assert "3.00 s (1.00 s - 5.00 s)" in rows["chain"]
    assert rows["chain"].rstrip().endswith("reference")
    assert "1.100 (1.100 - 1.100)  1.100 - 1.100" in rows["engine"]
    assert "1.000 (1.000 - 1.000)" in rows[CONTROL]


@pytest.mark.slow
def test_goals_are_printed_as_met_or_missed_with_the_figure() -> None:
    assert "goal engine: ratio <= 1.150: met with 1.100" in render(result())
    arms = {"chain": [], "engine": [Goal("ratio", "<=", 1.05), Goal("rate", ">=", 1_000)], CONTROL: []}
    text = render(result(arms=arms))
    assert "goal engine: ratio <= 1.050: MISSED with 1.100" in text
    assert "goal engine: rate >= 1,000 records/s: MISSED with 333 records/s" in text


@pytest.mark.slow
def test_a_goal_without_a_figure_is_not_measured() -> None:
    arms = {"chain": [], "engine": [Goal("peak_rss", "<=", 80_000_000)], CONTROL: []}
    assert "goal engine: peak_rss <= 80.0 MB: not measured" in render(result(arms=arms))


@pytest.mark.slow
def test_a_difference_is_signed_and_in_the_metrics_unit() -> None:
    changed = result(comparison="difference", arms={"engine": [Goal("difference", "<=", 0.5)], "chain": []})
    assert "goal engine: difference <= 500.0 ms: met with 300.0 ms" in render(changed)
    assert "+300.0 ms (+100.0 ms - +500.0 ms)" in render(changed)
    assert reached(changed, "engine", Goal("ratio", "<=", 2.0)) is None


@pytest.mark.slow
def test_a_control_that_differs_is_pointed_out() -> None:
    assert control_is_sound(result()) is True
    slower = [
        replace(sample, figures={**sample.figures, "wall": sample.figures["wall"] * 1.2})
        if sample.arm == CONTROL
        else sample
        for sample in result().samples
    ]
    biased = result(samples=slower)
    assert control_is_sound(biased) is False
    assert "the control differs from the reference" in render(biased)


def test_too_few_pairs_give_no_interval_and_no_verdict() -> None:
    short = result(samples=[sample for sample in result().samples if sample.round < 3])
    assert control_is_sound(short) is None
    assert "too few pairs" in render(short)


@pytest.mark.slow
def test_an_unfinished_round_counts_only_where_both_arms_ran() -> None:
    unfinished = result(samples=result().samples[:-2], status="partial", reason="the time limit was reached")
    summary = comparison(unfinished, "engine")
    assert summary is not None
    assert summary.n == 4
    assert "PARTIAL: the time limit was reached" in render(unfinished)


def test_skipped_arms_are_named_with_their_reason() -> None:
    skipped = result(samples=[], status="skipped", reason="not there", skipped={"chain": "not there"})
    assert render(skipped).splitlines()[1:] == ["  SKIPPED: not there", "  not run: chain: not there"]


@pytest.mark.parametrize("count", [1, 2])
def test_results_survive_being_stored(tmp_path: Path, count: int) -> None:
    written = [result(name=f"kernel_{number}") for number in range(count)]
    path = tmp_path / "new" / "results.json"
    store(written, path)
    assert load(path) == written


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"name": "kernel"}')
    with pytest.raises(ValueError, match="validation error"):
        load(path)
