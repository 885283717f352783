"""Structured events: one shape for the engine's own and for `cli_log`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import structlog

from engine import telemetry
from engine.execution.events import RunEvent
from engine.telemetry import cli_log, configure_logging, log_event


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def test_without_configuration_an_event_is_json_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    cli_log("extract_started", "reading 3 files", files=3)
    out, err = capsys.readouterr()
    assert out == ""
    event = json.loads(err)
    assert list(event) == ["timestamp", "level", "action", "message", "run", "pipeline", "files"]
    assert event["timestamp"].endswith("Z")
    del event["timestamp"]
    assert event == {
        "level": "info",
        "action": "extract_started",
        "message": "reading 3 files",
        "run": "",
        "pipeline": "",
        "files": 3,
    }
    assert not structlog.is_configured()


def test_the_engines_stages_have_the_same_shape() -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    log_event(RunEvent("run_finished", "completed", "warning", "blobs", "blobs-1", {"read": 5}))
    cli_log("mine", "done", "warning", run="blobs-1", pipeline="blobs", read=5)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert list(first) == list(second)
    assert (first["level"], first["run"], first["pipeline"], first["read"]) == (
        "warning",
        "blobs-1",
        "blobs",
        5,
    )


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("Success", "info"),
        ("highlight", "info"),
        ("WARN", "warning"),
        ("error", "error"),
        ("critical", "error"),
    ],
)
def test_levels_of_other_systems_are_understood(level: str, written: str) -> None:
    stream = io.StringIO()
    configure_logging("json", stream=stream)
    cli_log("a", "m", level)
    assert json.loads(stream.getvalue())["level"] == written


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown level 'loud', known: debug, info"):
        cli_log("a", "m", "loud")


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging("json", level="error", stream=stream)
    cli_log("a", "m", "warning")
    assert stream.getvalue() == ""


def test_the_console_form_is_one_line_for_a_person() -> None:
    stream = io.StringIO()
    configure_logging("console", stream=stream)
    cli_log("run_finished", "completed", pipeline="blobs", run="blobs-1", read=5)
    assert stream.getvalue()[8:] == " info    blobs run_finished: completed (read=5)\n"


def test_structlog_is_imported_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def import_module(name: str) -> ModuleType:
        seen.append(sys.modules.get("rich", "importable"))
        return structlog

    monkeypatch.setattr(telemetry, "_structlog", lambda: import_module("structlog"))
    monkeypatch.delitem(sys.modules, "rich", raising=False)
    configure_logging("json")
    assert seen[0] is None
    assert "rich" not in sys.modules
