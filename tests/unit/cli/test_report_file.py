"""Where `--report FILE` writes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.cli.display.report_file import check_target, write_report
from engine.cli.exit_codes import ExitCode, explain
from engine.cli.options import StateOptions


def test_a_report_may_have_the_longest_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / ("r" * 255)
    check_target(path)
    write_report(path, datetime(2026, 1, 1, tzinfo=UTC), StateOptions(), {})
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_is_too_long_is_the_users_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        check_target(tmp_path / ("r" * 256))
    assert explain(caught.value) == ExitCode.USAGE
    assert capsys.readouterr().err == f"error: File name too long: {tmp_path / ('r' * 256)}\n"
