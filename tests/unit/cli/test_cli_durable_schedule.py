"""What `schedule create` requests from a Temporal server: the file's values, unless options override."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.cli.durable import schedule
from engine.cli.durable.options import ScheduleOptions
from engine.temporal.schedules import Listed

FILE = """\
pipelines:
  nightly:
    schedule: "30 2 * * *"
    SETTINGS
    nodes:
      read: {source: blob, with: {records: 1}}
      write: {sink: ingest, with: {connection: w, model: Blob}}
connections: {w: {url: "https://warehouse.example"}}
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The schedules that the server would have made."""
    made: list[dict[str, Any]] = []

    async def create(client: object, request: object, cron: str, **options: Any) -> bool:
        made.append({"cron": cron, **options})
        return True

    async def client_of(options: object) -> None:
        return None

    monkeypatch.setattr(schedule, "create", create)
    monkeypatch.setattr(schedule, "client_of", client_of)
    return made


async def created(folder: Path, settings: str, options: dict[str, Any]) -> None:
    file = folder / "p.yaml"
    file.write_text(FILE.replace("SETTINGS", settings or "description: x"), "utf-8")
    given = ScheduleOptions(
        file=str(file), action="create", state_dir=str(folder), one_machine=True, **options
    )
    await schedule.ACTIONS["create"](given)


@pytest.mark.parametrize(
    ("settings", "options", "zone", "overlap", "catch_up"),
    [
        ("", {}, "UTC", "skip", timedelta(minutes=5)),
        ("time_zone: Europe/Berlin", {}, "Europe/Berlin", "skip", timedelta(minutes=5)),
        ("if_running: wait", {}, "UTC", "buffer_one", timedelta(minutes=5)),
        ("if_running: allow", {}, "UTC", "allow_all", timedelta(minutes=5)),
        ("if_running: refuse", {}, "UTC", "skip", timedelta(minutes=5)),
        ("catch_up: 6h", {}, "UTC", "skip", timedelta(hours=6)),
        ("catch_up: 6h", {"catch_up": "1m"}, "UTC", "skip", timedelta(minutes=1)),
        ("if_running: wait", {"overlap": "cancel_other"}, "UTC", "cancel_other", timedelta(minutes=5)),
    ],
)
async def test_a_schedule_keeps_what_its_file_says(
    tmp_path: Path,
    asked: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    settings: str,
    options: dict[str, str],
    zone: str,
    overlap: str,
    catch_up: timedelta,
) -> None:
    await created(tmp_path, settings, options)
    assert asked == [{"cron": "30 2 * * *", "time_zone": zone, "overlap": overlap, "catch_up": catch_up}]
    assert capsys.readouterr().out == f"nightly: scheduled: 30 2 * * * {zone}\n"


async def test_a_list_names_time_zones_other_than_utc(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def listed(client: object) -> list[Listed]:
        zoned = Listed("a", "@daily", False, "2026-01-01T23:00:00+00:00", time_zone="Europe/Berlin")
        return [zoned, Listed("b", "5m", True, "")]

    monkeypatch.setattr(schedule, "listed", listed)
    await schedule.ACTIONS["list"](ScheduleOptions())
    assert (
        capsys.readouterr().out == "a  @daily Europe/Berlin  next 2026-01-01T23:00:00+00:00\nb  5m  paused\n"
    )
