"""`runs list|show|forget|prune`: what they show, refuse and remove."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from engine.cli import main
from engine.cli.display import refresh
from engine.cli.exit_codes import ExitCode
from engine.config import load_file
from engine.contract.acks import Tally
from engine.contract.clock import timestamp
from engine.contract.dead_letter import DeadLetter
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry
from engine.state import DeadLetterFilter, Progress, RunRecord, RunStatus, StateStore, open_store

FILE = """\
version: 1
pipelines:
  copy:
    params: {rows: 3}
    nodes:
      make: {source: logs, with: {records: "${params.rows}", seed: 7}}
      out: {sink: stdout}
"""


def ago(days: float) -> str:
    return timestamp(datetime.now(UTC) - timedelta(days=days))


def plan(text: str = FILE) -> Plan:
    path = Path("pipelines.yaml")
    path.write_text(text, encoding="utf-8")
    return compile_file(load_file(str(path), environ={}), Registry.installed())["copy"]


def letter(run_id: str, key: str, status: str = "open") -> DeadLetter:
    return DeadLetter(
        run_id=run_id, pipeline="copy", node="out", key=key, stage="out", error_type="E", error_message="m",
        record={}, first_failed_at=ago(1), last_failed_at=ago(1), status=status,
    )  # fmt: skip


async def add(store: StateStore, run_id: str, **changes: object) -> None:
    made = plan()
    params: dict[str, JsonValue] = {"rows": 3}
    run = RunRecord(
        run_id, "copy", "g", made.identity, made.identity_doc, made.operational_doc, params, "s-1",
        started_at=ago(41), ended_at=ago(40), status=RunStatus.COMPLETED,
    )  # fmt: skip
    await store.create_run(replace(run, **changes))  # type: ignore[arg-type]
    await store.add_splits(run_id, "make", [Split("a"), Split("b")], complete=True)
    tally = Tally(read=1_200, written=1_197, dropped=1, dead=2, tokens_in=10, cost_usd=0.5)
    await store.commit(run_id, [Progress("make", "a", 1, True, tally)])


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs in `.odw` of the current folder, and the file they were made from."""
    monkeypatch.chdir(tmp_path)

    async def fill() -> None:
        async with open_store(".odw") as store:
            await add(store, "copy-old")
            await add(store, "copy-letters", started_at=ago(40.5))
            await store.put_dead_letters(
                [letter("copy-letters", "k1"), letter("copy-letters", "k2", "replayed")]
            )
            await add(store, "copy-failed", started_at=ago(40), status=RunStatus.FAILED, error="no such key")
            await add(store, "copy-new", started_at=ago(2), ended_at=ago(1))
            await add(store, "copy-killed", started_at=ago(0.5), ended_at="", status=RunStatus.RUNNING)
            await add(
                store, "copy-alive", started_at=ago(0), ended_at="", status=RunStatus.RUNNING, attempt=2
            )
            holder = f"{socket.gethostname()}:{os.getpid()}:abc"
            await store.acquire_lease("copy-alive", holder, now=ago(0), until=ago(-1))

    anyio.run(fill)
    return tmp_path


def left() -> list[str]:
    async def read() -> list[str]:
        async with open_store(".odw") as store:
            return [run.run_id for run in await store.list_runs()]

    return anyio.run(read)


@pytest.mark.slow
@pytest.mark.parametrize("is_held", [True, False])
def test_a_durable_run_without_a_worker_is_told_apart(
    capsys: pytest.CaptureFixture[str], *, is_held: bool
) -> None:
    async def fill() -> None:
        durable = {"group_id": "etl/copy/d", "ended_at": "", "status": RunStatus.RUNNING}
        async with open_store(".odw") as store:
            await add(store, "copy-durable", started_at=ago(0), **durable)
            if is_held:
                holder = f"{socket.gethostname()}:{os.getpid()}:abc"
                await store.acquire_lease("copy-durable", holder, chunk="c", now=ago(0), until=ago(-1))

    anyio.run(fill)
    assert main(["runs", "list", "--status", "running"]) == 0
    assert ("running, no worker" in capsys.readouterr().out) is not is_held
    assert main(["runs", "show", "copy-durable"]) == 0
    assert ("no worker: between two chunks, paused, wait" in capsys.readouterr().out) is not is_held
    assert main(["runs", "show", "copy-durable", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["status"], shown["has_worker"]) == ("running", is_held)
    assert main(["top", "--once"]) == 0
    assert ("running, no worker" in capsys.readouterr().out) is not is_held


@pytest.mark.slow
def test_the_list_is_newest_last_with_the_figures_of_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert " ".join(head.split()) == (
        "run pipeline where started status attempt read written dropped dead error"
    )
    rows = [line.split() for line in lines]
    assert [(row[0], row[5]) for row in rows] == [
        ("copy-old", "completed"),
        ("copy-letters", "completed"),
        ("copy-failed", "failed"),
        ("copy-new", "completed"),
        ("copy-killed", "killed"),
        ("copy-alive", "running"),
    ]
    assert rows[0][6:] == ["1", "1,200", "1,197", "1", "2"]
    assert rows[-1][6] == "2"


@pytest.mark.slow
def test_the_list_can_be_narrowed_and_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", "--json", "--limit", "2"]) == 0
    shown, note = capsys.readouterr()
    killed, alive = map(json.loads, shown.splitlines())
    assert (killed["run_id"], killed["status"], alive["status"]) == ("copy-killed", "killed", "running")
    assert killed["tally"]["written"] == 1_197
    assert note == "showing 2 of 6; use --limit 0 to show all\n"
    assert main(["runs", "list", "--pipeline", "other"]) == 0
    assert capsys.readouterr() == ("", "no runs\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("failed", ["copy-failed"]),
        ("killed", ["copy-killed"]),
        ("running", ["copy-alive"]),
        ("completed", ["copy-old", "copy-letters", "copy-new"]),
        ("outage", []),
    ],
)
def test_the_list_can_be_narrowed_to_a_status(
    status: str, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "list", "--status", status]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == expected


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_list_fits_a_terminal_and_keeps_errors(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)

    assert main(["runs", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "no such key" in lines[3]


@pytest.mark.slow
def test_a_run_is_shown_with_everything_and_compared_with_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["runs", "show", "copy-letters"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("run copy-letters  (completed)\n")
    for line in (
        "  records       read 1,200, written 1,197, dropped 1, dead 2",
        "  tokens        10 in, 0 out, 0.5000 USD",
        "  splits        1 of 2 done",
        "  dead letters  1 open",
        f"  plan          {plan().identity}",
        "  param         rows = 3",
        "  the file compiles to the same plan",
    ):
        assert f"\n{line}\n" in shown
    assert main(["runs", "show", "copy-alive"]) == 0
    assert (
        f"  held by       {socket.gethostname()}:{os.getpid()}:abc, lease until " in capsys.readouterr().out
    )
    assert main(["runs", "show", "copy-failed"]) == 0
    assert "  error         no such key\n" in capsys.readouterr().out


@pytest.mark.slow
def test_settings_that_changed_are_told_from_another_plan(capsys: pytest.CaptureFixture[str]) -> None:
    plan(FILE.replace("    nodes:", "    timeout: 5m\n    nodes:"))
    assert main(["runs", "show", "copy-old"]) == 0
    shown = capsys.readouterr().out
    assert "  settings that differ in the file:\n    settings.timeout: null → 300" in shown
    assert "another plan" not in shown
    plan(FILE.replace("seed: 7", "seed: 8"))
    assert main(["runs", "show", "copy-old", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["changed"] == {"identity": ["nodes.make.params.seed: 7 → 8"], "operational": []}
    assert document["splits"] == {"done": 1, "total": 2}
    assert (document["params"], document["dead_letters_open"], document["lease"]) == ({"rows": 3}, 0, None)


@pytest.mark.slow
def test_missing_or_invalid_file_matters_only_if_named(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (state / "pipelines.yaml").write_text("version: 2\n", encoding="utf-8")
    assert main(["runs", "show", "copy-old"]) == 0
    assert "not compared with the file: cannot use pipelines.yaml: " in capsys.readouterr().out
    (state / "pipelines.yaml").unlink()
    assert main(["runs", "show", "copy-old"]) == 0
    assert "not compared with the file: no pipelines.yaml here" in capsys.readouterr().out
    assert main(["runs", "show", "copy-old", "--file", "pipelines.yaml"]) == ExitCode.USAGE


@pytest.mark.slow
def test_forgetting_says_what_goes_with_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "forget", "copy-failed"]) == 0
    assert capsys.readouterr().out == (
        "forgetting run copy-failed with 2 splits and 0 dead letters (0 open); it is unfinished and can "
        "no longer be resumed\n"
    )
    assert left() == ["copy-old", "copy-letters", "copy-new", "copy-killed", "copy-alive"]


@pytest.mark.slow
def test_open_dead_letters_are_not_forgotten_by_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    before = left()
    assert main(["runs", "forget", "copy-letters"]) == ExitCode.USAGE
    assert "1 dead letter of run 'copy-letters' would be lost" in capsys.readouterr().err
    assert left() == before
    assert main(["runs", "forget", "copy-letters", "--yes"]) == 0
    assert "2 splits and 2 dead letters (1 open)\n" in capsys.readouterr().out
    assert "copy-letters" not in left()

    async def letters() -> int:
        async with open_store(".odw") as store:
            return await store.count_dead_letters(DeadLetterFilter())

    assert anyio.run(letters) == 0


@pytest.mark.slow
def test_a_living_run_is_not_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "forget", "copy-alive", "--yes"]) == ExitCode.ENVIRONMENT
    shown, errors = capsys.readouterr()
    assert (shown, f":{os.getpid()}:abc" in errors) == ("", True)
    assert "copy-alive" in left()


@pytest.mark.slow
def test_an_unknown_run_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["runs", "show"], ["runs", "forget"], ["dlq", "list", "--run"]):
        assert main([*arguments, "copy-od"]) == ExitCode.USAGE
        assert "copy-old" in capsys.readouterr().err
    assert main(["dlq", "list", "--run", "copy-old"]) == 0
    assert capsys.readouterr().err == "no open dead letters\n"


@pytest.mark.slow
def test_pruning_keeps_what_is_new_unfinished_or_has_open_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "prune", "--older-than", "30d"]) == 0
    assert capsys.readouterr() == (
        "1 run forgotten\n",
        "1 run kept because of open dead letters (see `dlq list`)\n",
    )
    assert left() == ["copy-letters", "copy-failed", "copy-new", "copy-killed", "copy-alive"]
    assert main(["runs", "prune", "--older-than", "12h"]) == 0
    assert "copy-new" not in left()


@pytest.mark.slow
def test_an_age_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    before = left()
    assert main(["runs", "prune", "--older-than", "soon"]) == ExitCode.USAGE
    assert "--older-than: " in capsys.readouterr().err
    assert main(["runs", "prune"]) == ExitCode.USAGE
    assert left() == before


@pytest.mark.slow
def test_pruning_takes_failed_runs_when_asked() -> None:
    assert main(["runs", "prune", "--older-than", "30d"]) == 0
    assert "copy-failed" in left()

    assert main(["runs", "prune", "--older-than", "30d", "--failed"]) == 0
    assert {"copy-failed", "copy-old"}.isdisjoint(left())
    assert {"copy-letters", "copy-new", "copy-alive"} <= set(left())


def watched(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """List runs until Ctrl-C after the second update."""
    intervals: list[float] = []

    async def sleep(seconds: float) -> None:
        intervals.append(seconds)
        if len(intervals) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(refresh, "anyio", SimpleNamespace(sleep=sleep))
    assert main(["runs", "list", "--watch", *arguments]) == 130
    assert intervals == [2.0, 2.0]


@pytest.mark.slow
def test_a_watched_list_is_updated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watched(monkeypatch, "--status", "running")
    first, second = re.findall(r"(?s)run .*?\n(?=run|\Z)", capsys.readouterr().out)
    assert first == second
    assert [line.split()[0] for line in first.splitlines()] == ["run", "copy-alive"]

    watched(monkeypatch, "--status", "outage")
    assert capsys.readouterr().out == "no runs\n" * 2


@pytest.mark.slow
def test_a_watched_list_stays_on_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((60, 5)))
    watched(monkeypatch)
    _, *screens = capsys.readouterr().out.split("\x1b[H\x1b[J")
    for screen in screens:
        head, *lines, more = screen.splitlines()
        assert [line.split()[0] for line in lines] == ["copy-killed", "copy-alive"]
        assert max(map(len, [head, *lines])) <= 60
        assert more == "showing 2 of 6"
    assert len(screens) == 2


def test_watching_takes_an_interval_and_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "list", "--watch", "--interval", "0.05"]) == ExitCode.USAGE
    assert "--interval: expected at least 0.1 seconds" in capsys.readouterr().err
    assert main(["runs", "list", "--watch", "--json"]) == ExitCode.USAGE


@pytest.mark.slow
def test_top_shows_runs_in_progress_and_killed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "status", "time", "read", "written", "dead", "records/s"]
    assert [line.split()[:2] for line in lines] == [["copy-killed", "killed"], ["copy-alive", "running"]]
    assert {line.split()[-1] for line in lines} == {"-"}  # a rate needs two samples

    assert main(["top", "--once", "--json"]) == 0
    _, alive = json.loads(capsys.readouterr().out)
    assert (alive["run_id"], alive["tally"]["written"], alive["records_per_second"]) == (
        "copy-alive",
        1_197,
        0,
    )
    assert main(["top", "--once", "--interval", "0"]) == 2
