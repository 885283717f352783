"""The capacity model: a simulation from the cost of a chunk, and the binding limit."""

from __future__ import annotations

import pytest

from benchmarks.capacity import Costs, Demand, Fleet, forecast, simulate

FREE = Costs(run=0.0, worker=0.0, server=0.0)


def test_chunks_that_only_wait_are_shared_among_all_slots() -> None:
    assert simulate(64, 0.5, Fleet(workers=1, slots=4), FREE) == pytest.approx(8.0)
    assert simulate(64, 0.5, Fleet(workers=2, slots=4), FREE) == pytest.approx(4.0)


def test_a_rest_takes_a_turn_of_its_own() -> None:
    assert simulate(5, 1.0, Fleet(workers=1, slots=4), FREE) == pytest.approx(2.0)


def test_worker_computes_one_chunk_at_a_time() -> None:
    assert simulate(10, 0.0, Fleet(1, 8), Costs(0.0, worker=0.2, server=0.0)) == pytest.approx(2.0)
    assert simulate(10, 0.0, Fleet(2, 8), Costs(0.0, worker=0.2, server=0.0)) == pytest.approx(1.0)


def test_the_server_is_one_for_all_workers() -> None:
    assert simulate(10, 0.0, Fleet(5, 2), Costs(0.0, worker=0.0, server=0.4)) == pytest.approx(4.0)


def test_run_has_overhead_even_with_idle_slots() -> None:
    assert simulate(1, 0.25, Fleet(3, 4), Costs(1.5, 0.0, 0.0)) == pytest.approx(1.75)


def test_the_limit_that_takes_longest_by_itself_binds() -> None:
    assert forecast(Demand()).binding.name == "model quota"
    assert forecast(Demand(llm_tokens_per_object=0)).binding.name == "S3 GETs of one prefix"
    assert forecast(Demand(llm_tokens_per_object=0, workers=1)).binding.name == "workers' processors"


def test_a_million_objects_stay_below_twenty_thousand_actions() -> None:
    assert forecast(Demand(objects=1e6, workers=4)).actions < 20_000


def test_chunks_that_take_longer_than_their_time_start_again() -> None:
    found = forecast(Demand(objects=1e9, workers=1, cpu_per_object=0.01))

    assert found.attempts == pytest.approx(1e9 * 0.01 * 4 / (24 * 60))
    assert found.attempts > found.chunks
