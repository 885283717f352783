"""Rounds, order, control, checksums, failures and time limits of the harness."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from benchmarks.harness import Settings, available, disagreement, measure, orders, run
from benchmarks.model import CONTROL, Arm, Benchmark, Goal, Work
from benchmarks.results import Sample


def doing(checksum: str | None = "same", log: list[str] | None = None, name: str = "") -> Callable[[], Work]:
    def call() -> Work:
        if log is not None:
            log.append(name)
        return Work(10, checksum)

    return call


def benchmark(*arms: Arm, pairs: int = 4) -> Benchmark:
    return Benchmark("sample", "a benchmark", arms, reference=arms[0].name, pairs=pairs)


class Clock:
    """Shows the scripted times, the last of them from then on."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = list(times)

    def __call__(self) -> float:
        return self._times.pop(0) if len(self._times) > 1 else self._times[0]


def test_every_arm_and_the_control_run_once_a_round() -> None:
    result = run(benchmark(Arm("plain", doing()), Arm("other", doing())), Settings(pairs=3))
    assert result.status == "complete"
    assert Counter((sample.round, sample.arm) for sample in result.samples) == {
        (number, name): 1 for number in (1, 2, 3) for name in ("plain", "other", CONTROL)
    }


def test_the_warm_up_round_runs_and_is_not_counted() -> None:
    log: list[str] = []
    result = run(benchmark(Arm("plain", doing(log=log, name="plain"))), Settings(pairs=2))
    assert len(log) == 6  # reference and control, one warm-up round and two counted
    assert [sample.round for sample in result.samples] == [1, 1, 2, 2]


def test_the_control_does_the_references_work_and_has_no_goals() -> None:
    reference = Arm("plain", doing(), goals=[Goal("wall", "<=", 1.0)])
    arms, _ = available(benchmark(reference, Arm("other", doing())))
    control = arms[-1]
    assert (control.name, control.call, list(control.goals)) == (CONTROL, reference.call, [])


def test_the_order_is_random_by_round_and_repeats_with_its_seed() -> None:
    arms = [Arm(name, doing()) for name in "abcdef"]

    def drawn(seed: int, name: str = "sample") -> list[str]:
        return ["".join(arm.name for arm in order) for order in orders(arms, 20, seed, name)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(1) != drawn(1, "another")
    assert len(set(drawn(1))) > 10
    assert {"".join(sorted(order)) for order in drawn(1)} == {"abcdef"}


def test_samples_say_their_place_in_the_round() -> None:
    log: list[str] = []
    arms = [Arm(name, doing(log=log, name=name)) for name in "abc"]
    result = run(benchmark(*arms, pairs=3), Settings(seed=5))
    placed = [sample.arm if sample.arm != CONTROL else "a" for sample in result.samples]
    assert placed == log[4:]  # after the warm-up round
    assert [sample.position for sample in result.samples] == [0, 1, 2, 3] * 3


def test_different_work_makes_the_result_invalid_and_names_the_arms() -> None:
    result = run(benchmark(Arm("plain", doing("90 rows")), Arm("wrong", doing("89 rows"))), Settings())
    assert result.status == "invalid"
    assert result.reason == "checksums differ: wrong gave 89 rows; control, plain gave 90 rows"
    assert {sample.round for sample in result.samples} == {1}


def test_an_arm_that_varies_disagrees_with_itself() -> None:
    samples = [Sample(number, 0, "plain", 1, str(number), {}) for number in (1, 2)]
    assert disagreement(samples) == "checksums differ: plain gave 1; plain gave 2"


@pytest.mark.slow
def test_a_missing_checksum_is_refused_unless_allowed() -> None:
    refused = run(benchmark(Arm("plain", doing()), Arm("silent", doing(None))), Settings())
    assert (refused.status, refused.reason) == ("invalid", "silent: gave no checksum of its work")
    allowed = run(benchmark(Arm("plain", doing()), Arm("idle", doing(None), checked=False)), Settings())
    assert allowed.status == "complete"


def test_failing_arm_invalidates_but_keeps_its_samples() -> None:
    calls = Counter[str]()

    def fails_late() -> Work:
        calls["late"] += 1
        if calls["late"] == 4:
            raise RuntimeError("no more")
        return Work(1, "same")

    result = run(benchmark(Arm("plain", doing()), Arm("late", fails_late)), Settings())
    assert (result.status, result.reason) == ("invalid", "late: RuntimeError: no more")
    assert {1, 2} <= {sample.round for sample in result.samples}


def test_a_coroutine_function_is_run_and_timed() -> None:
    async def work() -> Work:
        return Work(10, "same")

    result = run(benchmark(Arm("plain", doing()), Arm("async", work)), Settings(pairs=1))
    (sample,) = [sample for sample in result.samples if sample.arm == "async"]
    assert (sample.count, sample.checksum) == (10, "same")
    assert {"wall", "cpu", "rate"} <= sample.figures.keys()


def test_an_arms_own_figures_override_and_add_to_the_measured_ones() -> None:
    sample = measure(Arm("plain", lambda: Work(1, "x", {"rate": 5.0, "lag_max": 0.25})), 1, 0, Settings())
    assert (sample.figures["rate"], sample.figures["lag_max"]) == (5.0, 0.25)


def test_the_time_limit_keeps_what_was_measured_and_marks_it() -> None:
    clock = Clock([0.0] * 5 + [100.0])  # warm-up of two arms, three samples, then late
    settings = Settings(deadline=50.0, clock=clock)
    result = run(benchmark(Arm("plain", doing())), settings)
    assert (result.status, result.reason) == ("partial", "the time limit was reached")
    assert len(result.samples) == 3


def test_an_async_arm_is_cut_short_by_the_time_limit() -> None:
    async def endless() -> Work:
        import anyio

        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    # The limit is 1 ms away when the arm starts and past when it has been cancelled.
    settings = Settings(deadline=1.0, clock=Clock([0.999, 2.0]))
    result = run(benchmark(Arm("endless", endless)), settings)
    assert (result.status, result.reason) == ("partial", "the time limit was reached")


def test_an_interrupt_keeps_what_was_measured() -> None:
    calls = Counter[str]()

    def interrupted() -> Work:
        calls["all"] += 1
        if calls["all"] == 5:
            raise KeyboardInterrupt
        return Work(1, "same")

    result = run(benchmark(Arm("plain", interrupted)), Settings())
    assert (result.status, result.reason, len(result.samples)) == ("partial", "interrupted", 2)


def test_an_unavailable_arm_is_left_out_with_its_reason() -> None:
    missing = Arm("missing", doing(), unavailable=lambda: "no such command")
    result = run(benchmark(Arm("plain", doing()), missing), Settings(pairs=1))
    assert result.status == "complete"
    assert result.skipped == {"missing": "no such command"}
    assert {sample.arm for sample in result.samples} == {"plain", CONTROL}


def test_without_its_reference_a_benchmark_is_skipped() -> None:
    missing = Arm("missing", doing(), unavailable=lambda: "no such command")
    result = run(benchmark(missing, Arm("plain", doing())), Settings())
    assert (result.status, result.reason, result.samples) == ("skipped", "no such command", [])


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_set_for_the_sample_and_put_back(enabled: bool) -> None:
    seen: list[bool] = []

    def look() -> Work:
        seen.append(gc.isenabled())
        return Work(1, "same")

    before = gc.isenabled()
    measure(Arm("plain", look), 1, 0, Settings(gc_enabled=enabled))
    assert seen == [enabled]
    assert gc.isenabled() == before


def test_a_result_names_its_circumstances() -> None:
    result = run(benchmark(Arm("plain", doing())), Settings(pairs=1, seed=9))
    assert result.seed == 9
    assert {"cpu_model", "usable_cores", "memory_bytes", "kernel"} <= result.machine.keys()
    assert {"version", "profile_guided"} <= result.python.keys()
    assert "anyio" in result.libraries
    assert result.started_at.endswith("+00:00")


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ([Arm("a", doing()), Arm("a", doing())], "two arms of one name"),
        ([Arm("b", doing())], "no arm 'a'"),
        ([Arm("a", doing()), Arm(CONTROL, doing())], "the A/A arm"),
    ],
)
def test_a_benchmark_that_cannot_be_compared_is_refused(arms: list[Arm], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Benchmark("sample", "a benchmark", arms, reference="a")


def test_an_arm_is_either_a_call_or_a_command() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Arm("neither")
