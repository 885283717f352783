"""Bugs of a pipeline that only faults reveal."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

import engine.chaos.trial
from engine.chaos import ChaosReport, Disturbances, chaos
from engine.errors import ConfigError
from engine.plan.model import Plan
from tests.unit.kernel import chaos_plans

HOW = Disturbances(kills=1)


async def tried(load: Callable[[], Plan], runs: int = 1, **options: Any) -> ChaosReport:
    return await chaos(load, runs=runs, **{"how": HOW, **options})


@pytest.mark.slow
async def test_a_sound_pipeline_passes_through_kills_and_failures() -> None:
    report = await tried(chaos_plans.sound)

    assert report.findings == []
    assert (report.records, list(report.seeds), report.kills) == (60, [0], 1)


@pytest.mark.series
async def test_a_sound_pipeline_passes_through_many_kills() -> None:
    report = await tried(chaos_plans.sound, runs=10, how=Disturbances(kills=5))

    assert report.findings == []
    assert (len(report.seeds), report.kills >= 20) == (10, True)


@pytest.mark.series
async def test_a_transform_that_is_not_deterministic_is_found() -> None:
    report = await tried(chaos_plans.random_values, runs=2)

    assert "with other values" in str(report.findings[0])
    assert list(report.seeds) == [0], "the smallest seed that fails is the last"


@pytest.mark.series
async def test_a_source_with_unstable_keys_is_found() -> None:
    report = await tried(chaos_plans.unstable_keys)

    assert "with keys that the undisturbed run does not have" in " ".join(map(str, report.findings))


@pytest.mark.slow
async def test_a_sink_that_appends_is_found(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    report = await tried(partial(chaos_plans.appending, str(path)), runs=5)

    assert [(one.node, one.what) for one in report.findings] == [("n2", "too many, or with other values")]
    assert not path.exists(), "it has written to a scratch file"


async def test_a_sink_with_a_place_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(ConfigError, match="`n2` does not write to the `path` of its parameters"):
        await tried(partial(chaos_plans.ignoring_its_path, str(path)))

    assert not path.exists()


@pytest.mark.series
async def test_the_sink_jsonl_passes(tmp_path: Path) -> None:
    report = await tried(partial(chaos_plans.to_jsonl, str(tmp_path / "out.jsonl")), runs=3)

    assert (report.findings, report.kills > 1) == ([], True)
    assert os.listdir(tmp_path) == []


@pytest.mark.series
async def test_a_sink_that_can_tell_is_tried_itself(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    report = await tried(
        partial(chaos_plans.to_jsonl, str(path)),
        arrived={"n2": lambda: [orjson.loads(line) for line in path.read_bytes().splitlines()]},
        clean=lambda: path.unlink(missing_ok=True),
    )

    assert report.findings == []
    assert len(path.read_bytes().splitlines()) == 60


@pytest.mark.series
async def test_a_run_that_does_not_end_as_undisturbed_is_found(tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    load = partial(chaos_plans.failing_when_resumed, str(tmp_path))
    report = await tried(load, runs=5, clean=lambda: mark.unlink(missing_ok=True))

    assert str(report.findings[0]).endswith("somebody was here before")
    assert "run: failed instead of completed" in str(report.findings[0])


@pytest.mark.series
async def test_a_run_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.chaos.trial, "_PATIENCE_AT_LEAST", 0.0)
    monkeypatch.setattr(engine.chaos.trial, "_PATIENCE", 3)
    mark = tmp_path / "begun"
    load = partial(chaos_plans.hanging_when_resumed, str(tmp_path))
    report = await tried(load, runs=5, clean=lambda: mark.unlink(missing_ok=True))

    assert "no end within" in str(report.findings[0])


async def test_paid_calls_must_be_allowed_and_bounded() -> None:
    with pytest.raises(ConfigError, match="pays for answers: add --yes"):
        await chaos(chaos_plans.paying)
    with pytest.raises(ConfigError, match="has no `budget_usd`"):
        await chaos(chaos_plans.paying, paid=True)


async def test_a_plan_that_no_process_can_import_is_refused() -> None:
    with pytest.raises(ConfigError, match="give a function at the top of a module"):
        await chaos(lambda: chaos_plans.sound())


async def test_a_pipeline_that_fails_undisturbed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "begun").write_text("0")
    with pytest.raises(ConfigError, match=r"has to complete first: .*somebody was here before"):
        await chaos(partial(chaos_plans.failing_when_resumed, str(tmp_path)))
