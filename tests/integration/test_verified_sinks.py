"""Verified runs against real sinks: the service's counts, files, and unverifiable sinks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

import engine
from connectors.files import JsonlSink
from connectors.files.jsonl_sink import JsonlSinkParams
from connectors.models import INGEST_MODELS
from engine.cli.exit_codes import ExitCode
from engine.contract.verification import Check, Verdict
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.execution.run import Run
from engine.plan.model import Plan
from engine.service.server import RunningService, running_service
from engine.state.memory import MemoryStateStore
from engine.state.records import RunStatus
from engine.testing import MemorySource, linear_plan
from tests.integration.scripted_http import Answer, Request, ScriptedServer

RECORDS = 400
SOURCES = {
    "new": "{source: blob, with: {records: 400}}",
    "same": "{source: jsonl, with: {path: FOLDER/blobs.jsonl, page_records: 20}}",
}


@pytest.fixture
async def service(tmp_path: Path, kept_warehouse: None) -> AsyncIterator[RunningService]:
    async with running_service(tmp_path / "state", models=INGEST_MODELS) as running:
        yield running


def blob(number: int) -> dict[str, object]:
    return {
        "id": f"b{number}",
        "bucket_name": "bucket",
        "file_path": "/a/",
        "file_name": "report.txt",
        "file_size": 300,
        "permissions": ["READ"],
        "content_type": None,
        "ingested_at": "2026-01-01T00:00:00+00:00",
    }


def loading(folder: Path, url: str, source: str = "new", ids: int = RECORDS) -> Plan:
    """400 records into `ingest`, every tenth of them one that the service refuses; `ids` different ids."""
    rows = (json.dumps(blob(number % ids)) for number in range(RECORDS))
    (folder / "blobs.jsonl").write_text("\n".join(rows), "utf-8")
    file = folder / "p.yaml"
    file.write_text(
        f'version: 1\nconnections: {{warehouse: {{url: "{url}"}}}}\n'
        f"pipelines:\n  p:\n    nodes:\n      read: {SOURCES[source].replace('FOLDER', str(folder))}\n"
        "      mark: {transform: simulate_failures, with: {percentage: 10, field: file_name}}\n"
        "      load: {sink: ingest, with: {connection: warehouse, model: BlobSource, records: 20}}",
        "utf-8",
    )
    (plan,) = engine.load(file).values()
    return plan


async def interrupted(
    owner: Engine, plan: Plan, after: int, act: Callable[[Run], None] = Run.cancel
) -> RunReport:
    """A run that is cancelled, or drained, after this many written records."""
    async with owner.start(plan) as run:

        async def watch(run: Run) -> None:
            while run.snapshot().tally.written < after:  # noqa: ASYNC110 - there is no event for it
                await anyio.sleep(0.001)
            act(run)

        with anyio.fail_after(300):
            async with anyio.create_task_group() as group:
                group.start_soon(watch, run)
                report = await run.wait()
    assert report.status is RunStatus.INTERRUPTED
    return report


async def resumed(owner: Engine, plan: Plan, first: RunReport) -> RunReport:
    return await owner.run(plan, resume=await owner.store.get_run(first.run_id), verify=True)


def wrong(report: RunReport) -> list[tuple[str, str, int | None, int | None]]:
    return [(one.node, one.what, one.expected, one.found) for one in report.checks if not one.passed]


def records_at(report: RunReport, node: str) -> Check:
    (check,) = [one for one in report.checks if (one.node, one.what) == (node, "records")]
    return check


def tamper(service: RunningService, sql: str) -> None:
    service.warehouse.storage.cursor().execute(sql)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["new", "same"])
async def test_rows_and_dead_letters_match_the_service(
    service: RunningService, tmp_path: Path, source: str
) -> None:
    plan = loading(tmp_path, service.url, source)
    async with Engine() as owner:
        report = await owner.run(plan, verify=True)
        again = await owner.run(plan, verify=True)

    assert (wrong(report), wrong(again)) == ([], [])
    assert (records_at(report, "load").found, records_at(again, "load").found) == (360, 360)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["new", "same"])
async def test_a_resumed_run_has_every_row_once_after_repetitions(
    service: RunningService, tmp_path: Path, source: str
) -> None:
    plan = loading(tmp_path, service.url, source)
    async with Engine() as owner:
        first = await interrupted(owner, plan, after=20)
        report = await resumed(owner, plan, first)

    assert (report.attempt, report.verified, wrong(report)) == (2, True, [])
    assert (records_at(report, "load").expected, records_at(report, "load").found) == (360, 360)


OLDEST = 'SELECT arg_min(id, _seq) FROM "Blob"'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (
            f'DELETE FROM "Blob" WHERE id = ({OLDEST})',
            [
                ("load", "records", 360, 359),
                ("load", "rows in the warehouse, of those that it acknowledged", 360, 359),
            ],
        ),
        (
            f'INSERT INTO "Blob" SELECT * FROM "Blob" WHERE id = ({OLDEST})',
            [
                ("load", "records", 360, 361),
                ("load", "rows in the warehouse, of those that it acknowledged", 360, 361),
                ("load", "rows with a duplicate id", 0, 2),
            ],
        ),
        (
            "DELETE FROM _odw_dead_letters WHERE record_id = (SELECT min(record_id) FROM _odw_dead_letters)",
            [("load", "dead letters in the service, of those that it reported", 40, 39)],
        ),
    ],
    ids=["a row is lost", "a row is doubled", "a dead letter is lost"],
)
async def test_what_the_service_lacks_or_has_twice_is_reported(
    service: RunningService, tmp_path: Path, sql: str, found: list[tuple[str, str, int, int]]
) -> None:
    plan = loading(tmp_path, service.url, "same")
    async with Engine() as owner:
        # drained: whatever is taken away is in the ledger, and is not delivered again
        first = await interrupted(owner, plan, 40, Run.drain)
        assert first.tally.dead > 0
        tamper(service, sql)
        report = await resumed(owner, plan, first)

    assert (report.ok, report.verified, wrong(report)) == (True, False, found)


@pytest.mark.slow
async def test_records_of_one_id_are_not_considered_lost(service: RunningService, tmp_path: Path) -> None:
    async with Engine() as owner:
        report = await owner.run(loading(tmp_path, service.url, "same", ids=10), verify=True)

    check = records_at(report, "load")
    assert (report.verified, check.verdict, check.expected) == (True, Verdict.AGREES, report.tally.written)
    assert check.found is not None
    assert check.found <= 10
    assert "replaced by later ones of the same id" in check.note


@pytest.mark.series
async def test_rows_replaced_by_another_run_do_not_count_as_lost(
    service: RunningService, tmp_path: Path
) -> None:
    plan = loading(tmp_path, service.url, "same")
    async with Engine() as owner:
        first = await interrupted(owner, plan, after=40)
        await owner.run(plan)
        report = await resumed(owner, plan, first)

    assert wrong(report) == []
    assert "were since replaced by other deliveries" in records_at(report, "load").note


@pytest.mark.slow
async def test_a_service_that_keeps_no_counts_cannot_be_verified(tmp_path: Path) -> None:
    def moose(request: Request) -> Answer:
        return Answer() if request.method == "POST" else Answer(404, b"Not found")

    async with ScriptedServer(moose).running() as server, Engine() as owner:
        report = await owner.run(loading(tmp_path, server.url), verify=True)

    check = records_at(report, "load")
    assert (report.verified, check.verdict) == (True, Verdict.UNKNOWN)
    assert check.note.startswith("the service does not report what it holds of a run: GET ")


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"{}", b"hello", b'{"acknowledged": -1}'])
async def test_an_answer_that_is_none_is_no_count(tmp_path: Path, body: bytes) -> None:
    def other(request: Request) -> Answer:
        return Answer(
            200, b"SUCCESS" if request.method == "POST" else body, {"content-type": "application/json"}
        )

    async with ScriptedServer(other).running() as server, Engine() as owner:
        report = await owner.run(loading(tmp_path, server.url), verify=True)

    assert (
        records_at(report, "load").note == "the service does not report what it holds of a run at /deliveries"
    )


@pytest.mark.slow
async def test_a_service_that_has_forgotten_the_beginning_reports_it(
    service: RunningService, tmp_path: Path
) -> None:
    tamper(service, "UPDATE _odw_meta SET accounts_since = TIMESTAMP '2999-01-01'")
    async with Engine() as owner:
        report = await owner.run(loading(tmp_path, service.url), verify=True)

    check = records_at(report, "load")
    assert (check.verdict, check.note) == (
        Verdict.UNKNOWN,
        "the service no longer knows what it received before 2999-01-01 00:00 UTC",
    )


class Watched(JsonlSink):
    """Does something to its file before it counts."""

    def __init__(self, path: Path, act: Callable[[Path], object] = lambda path: None) -> None:
        super().__init__(JsonlSinkParams(path=str(path)))
        self.act = act

    async def count_records(self, delivered):  # type: ignore[no-untyped-def]
        self.act(Path(self.params.path))
        return await super().count_records(delivered)


def add_a_line(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write('{"n": 1}\n')


PAGES = [[{"n": number} for number in range(start, start + 10)] for start in range(0, 100, 10)]


def lines_at(report: RunReport) -> Check:
    (check,) = [one for one in report.checks if one.what == "lines"]
    return check


async def test_lines_of_a_file_are_counted_from_where_the_run_began(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text('{"n": -1}\n' * 7, "utf-8")
    async with Engine() as owner:
        report = await owner.run(
            linear_plan(MemorySource(PAGES), Watched(tmp_path / "out.jsonl")), verify=True
        )

    assert (report.verified, lines_at(report).found, lines_at(report).note) == (True, 100, "")


@pytest.mark.slow
async def test_a_resumed_run_counts_the_lines_of_its_last_attempt(tmp_path: Path) -> None:
    store, path = MemoryStateStore(), tmp_path / "out.jsonl"

    def fail(split: str, page: int) -> None:
        if page == 5:
            raise KeyError

    async with Engine(store=store) as owner:
        first = await owner.run(linear_plan(MemorySource(PAGES, fail=fail), Watched(path)))
        report = await resumed(owner, linear_plan(MemorySource(PAGES), Watched(path)), first)

    assert (report.tally.written, report.verified, lines_at(report).found) == (100, True, 50)
    assert lines_at(report).note == ("those of this attempt only: lines do not name their run")


SINKS = {
    "rows": "{sink: duckdb, with: {path: FOLDER/d.duckdb, table: t, mode: MODE}}",
    "files": "{sink: files, with: {path: FOLDER/out, format: jsonl, mode: MODE}}",
    "lines": "{sink: jsonl, with: {path: FOLDER/out.jsonl, mode: MODE}}",
}


@pytest.mark.slow
@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_a_run_killed_after_its_sinks_completed_is_no_mismatch(
    tmp_path: Path, sink: str, mode: str
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(10)), "utf-8")
    (tmp_path / "p.yaml").write_text(
        "version: 1\npipelines:\n  p:\n    nodes:\n"
        f"      read: {{source: jsonl, with: {{path: {tmp_path}/in.jsonl}}}}\n"
        f"      out: {SINKS[sink].replace('FOLDER', str(tmp_path)).replace('MODE', mode)}\n",
        "utf-8",
    )
    (plan,) = engine.load(tmp_path / "p.yaml").values()
    async with Engine(store=MemoryStateStore()) as owner:
        first = await owner.run(plan)
        await owner.store.update_run(first.run_id, status=RunStatus.RUNNING, epoch=1)  # killed
        report = await resumed(owner, plan, first)

    assert (report.ok, report.tally.written, wrong(report)) == (True, 10, [])


@pytest.mark.parametrize(
    ("act", "verdict", "found", "note"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), Verdict.DIFFERS, 99, ""),
        (Path.unlink, Verdict.DIFFERS, 0, "the file was removed or replaced meanwhile"),
        (
            add_a_line,
            Verdict.UNKNOWN,
            None,
            "another node or process wrote to {path} meanwhile",
        ),
    ],
    ids=["cut off", "removed", "written to"],
)
async def test_a_file_that_somebody_has_touched_is_noticed(
    tmp_path: Path, act: Callable[[Path], object], verdict: Verdict, found: int | None, note: str
) -> None:
    path = tmp_path / "out.jsonl"
    async with Engine() as owner:
        report = await owner.run(linear_plan(MemorySource(PAGES), Watched(path, act)), verify=True)

    check = lines_at(report)
    assert (check.verdict, check.expected, check.found) == (verdict, 100, found)
    assert check.note == note.format(path=path)


COPY = """\
version: 1
pipelines:
  copy:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl, page_records: 5}}
      cut: {transform: "cutting:cut"}
      out: {sink: SINK}
"""

CUTTING = """\
from pathlib import Path
from engine import transform

@transform
def cut(record):
    if record["n"] == 9:
        out = Path("out.jsonl")
        if out.exists():
            out.write_bytes(b" " * out.stat().st_size)
    return record
"""


@pytest.mark.parametrize(
    ("sink", "code", "line"),
    [
        (
            "jsonl, with: {path: out.jsonl}",
            ExitCode.NOT_VERIFIED,
            "lines: expected 10, found 5",
        ),
        (
            "stdout",
            ExitCode.COMPLETED,
            "records: the sink `stdout` cannot report what it holds of a run",
        ),
    ],
)
def test_command_line_prints_the_checks_and_exits_with_7(
    tmp_path: Path, sink: str, code: ExitCode, line: str
) -> None:
    (tmp_path / "pipelines.yaml").write_text(COPY.replace("SINK", sink), "utf-8")
    (tmp_path / "cutting.py").write_text(CUTTING, "utf-8")
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(10)), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "engine", "run", "--verify", "--report", "report.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == code, done.stderr
    word = "MISMATCH" if code else "not verifiable"
    assert f"copy: {word} at out: {line}" in (done.stdout + done.stderr).splitlines()
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))["pipelines"]["copy"]
    assert (report["status"], report["verified"]) == ("completed", code is ExitCode.COMPLETED)
