"""Details of a run and a shard on Temporal's page."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.temporal.details import of_run
from engine.temporal.messages import Control, Trouble

TOLD = datetime(2026, 1, 1, 12, tzinfo=UTC)
TROUBLES = {"load": (Trouble("load", "outage", "answered 503", TOLD.timestamp()), TOLD)}


def details(phase: str, ended: tuple[str, str] = ("", "")) -> str:
    return of_run("blobs", "r1", phase, Control(), (1, 2), 8, TROUBLES, ended=ended)


def test_a_run_under_way_shows_what_a_node_waits_for() -> None:
    text = details("running")
    assert text.startswith("**blobs**, run `r1`: running\n\n1 of 2 shards done")
    assert "**outage**: `load` waits since 12:00:00 UTC" in text


@pytest.mark.parametrize("phase", ["finalizing", "done"])
def test_a_failed_run_shows_why_and_no_old_trouble(phase: str) -> None:
    text = details(phase, ("failed", "POST http://x answered 401"))
    assert text.startswith("**blobs**, run `r1`: failed\n\n**failed**: `POST http://x answered 401`")
    assert "waits since" not in text


def test_a_completed_run_gives_no_reason() -> None:
    assert details("done", ("completed", "")).startswith("**blobs**, run `r1`: completed\n\n1 of 2")
