"""Displayed numbers, the summary, progress lines and the live table."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from engine.cli.display.live import table
from engine.cli.display.numbers import Rate, count, counted, duration, rate, size
from engine.cli.display.plain import json_line, plain_line
from engine.cli.display.summary import summary
from engine.cli.options import PlaceOptions
from engine.contract.acks import Tally
from engine.contract.component import Kind
from engine.execution.report import RunReport
from engine.execution.session import Entry
from engine.flow.stats import NodeSnapshot, NodeStats, RunSnapshot, Waiting
from engine.state.records import RunStatus
from engine.testing import MemorySink, MemorySource, linear_plan

OPTIONS = PlaceOptions()


@pytest.fixture(autouse=True)
def activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hints name the interpreter's path only while its environment is not activated."""
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere/.venv")


def nodes(read: int = 1000, *, waiting: Waiting = Waiting.NOTHING) -> list[NodeSnapshot]:
    note = "load" if waiting is Waiting.DOWNSTREAM else ""
    extract = NodeStats("extract", Kind.SOURCE, "blob", records_in=read, busy=0.5, waiting=waiting, note=note)
    load = NodeStats("load", Kind.SINK, "ingest", records_in=read, busy=1.6, retries=3)
    return [extract.snapshot(2.0), load.snapshot(2.0)]


def test_counts_that_could_not_be_stored_are_no_fault_of_the_engine() -> None:
    in_flight = report(tally=Tally(read=20, written=10), stored=False, status=RunStatus.FAILED, error="full")
    text = summary([in_flight], OPTIONS)

    assert "please report this" not in text
    assert "these are the last counts known to this process" in text


def report(name: str = "blobs", **changes: object) -> RunReport:
    tally = Tally(read=1000, written=800, dropped=100, dead=100, drops={"keep: filtered": 100})
    shown = nodes()
    base = RunReport(name, f"{name}-1", RunStatus.COMPLETED, tally, 2.0, shown, shown[1], dead_letters=100)
    return replace(base, **changes)  # type: ignore[arg-type]


def snapshot(**changes: object) -> RunSnapshot:
    tally = Tally(read=12_000, written=11_500, dead=3)
    base = RunSnapshot("blobs-1", "blobs", 10.0, tally, 4 << 20, 64 << 20, nodes(waiting=Waiting.DOWNSTREAM))
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (count(1234567), "1,234,567"),
        (counted(1, "node"), "1 node"),
        (counted(2000, "node"), "2,000 nodes"),
        (rate(0.25), "0.2"),
        (rate(12_345.6), "12,346"),
        (rate(1_234_567), "1,235k"),
        (size(512), "512 B"),
        (size(1536), "1.5 K"),
        (size(64 << 20), "64 M"),
        (size(1023 * 1024), "1.0 M"),
        (duration(0.5), "0.50 s"),
        (duration(59.97), "1:00"),
        (duration(125), "2:05"),
        (duration(3725), "1:02:05"),
    ],
)
def test_numbers_read_well(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_rate_looks_back_over_the_last_seconds_only() -> None:
    speed = Rate()
    assert speed.update(0.0, 0) == 0.0
    assert speed.update(1.0, 100) == 100.0
    for second in range(2, 20):
        last = speed.update(float(second), 100)
    assert last == 0.0


def test_the_summary_accounts_for_every_record() -> None:
    lines = summary([report("blobs"), report("logs")], OPTIONS).splitlines()
    assert lines[:4] == [
        "pipeline  status      read  written  dropped  dead    time  records/s  bottleneck",
        "blobs     completed  1,000      800      100   100  2.00 s        500  load (80% busy)",
        "logs      completed  1,000      800      100   100  2.00 s        500  load (80% busy)",
        "total                2,000    1,600      200   200",
    ]
    assert lines[4:7] == [
        "blobs: dropped 100 at keep: filtered",
        "blobs: 100 dead letters: python -m engine dlq list --run blobs-1",
        "blobs: 3 retries: load 3",
    ]
    assert "add up" not in "\n".join(lines)


def test_rejected_copies_of_dead_letters_are_named() -> None:
    notes = {"note: a line is lost": 1.0, "rejected: POST /x answered 400": 1.0}
    forward = NodeStats("dead_letters.forward", Kind.SINK, "http", dead=2, aggregate=notes).snapshot(2.0)
    text = summary([report(forward=forward)], OPTIONS)
    expected = "`dead_letters.forward` rejected the copies of 2 dead letters; the first: POST /x answered 400"
    assert f"blobs: {expected}\n" in text


def test_counts_that_do_not_add_up_are_complained_about() -> None:
    text = summary([report(tally=Tally(read=10, written=9))], OPTIONS)
    assert (
        "blobs: Internal error: record counts do not balance (read 10, but written 9 + dropped 0 + dead 0)"
    ) in text


def test_records_that_were_made_have_a_column_of_their_own() -> None:
    text = summary([report(tally=Tally(read=10, forked=5, written=15))], OPTIONS)
    assert "read  made  written" in text.splitlines()[0]
    assert "do not balance" not in text


def test_a_run_that_ended_early_says_why_and_how_to_resume() -> None:
    options = PlaceOptions(file="etl/my.yaml", state_dir="/var/odw")
    text = summary([report(status=RunStatus.OUTAGE, error="'load' could deliver nothing")], options)
    assert "blobs: 'load' could deliver nothing\n" in text
    assert "to resume: python -m engine run etl/my.yaml --resume blobs-1 --state-dir /var/odw\n" in text
    assert "dlq list --run blobs-1 --file etl/my.yaml --state-dir /var/odw\n" in text
    assert "--resume" not in summary([report()], options)
    assert "--resume" not in summary([report(status=RunStatus.FAILED)], options, resumable=False)


def test_letters_of_unsettled_batches_are_explained() -> None:
    early = report(status=RunStatus.INTERRUPTED, tally=Tally(), dead_letters=2)
    text = summary([early], OPTIONS)
    assert "blobs: 2 dead letters, stored before their batches settled: python -m engine dlq" in text
    assert "settled" not in summary([report(status=RunStatus.INTERRUPTED)], OPTIONS)


def test_what_a_sink_only_accepted_and_what_models_cost_is_said() -> None:
    tally = Tally(read=5, written=5, accepted=5, tokens_in=1200, tokens_out=34, cost_usd=0.0123)
    text = summary([report(tally=tally)], OPTIONS)
    assert "blobs: 5 written records were accepted without per-record confirmation" in text
    assert "blobs: 1,200 tokens in, 34 out, $0.0123" in text


def test_a_table_wider_than_the_terminal_is_written_as_lines() -> None:
    lines = summary([report()], OPTIONS, width=60).splitlines()
    assert lines[0] == "blobs: completed in 2.00 s, 500/s"
    assert lines[1:6] == [
        "  read 1,000",
        "  written 800",
        "  dropped 100",
        "  dead 100",
        "  bottleneck load (80% busy)",
    ]


def test_a_run_that_found_nothing_says_which_source_did() -> None:
    text = summary([report(tally=Tally(), nodes=nodes(0), bottleneck=None, dead_letters=0)], OPTIONS)
    assert "blobs: `extract` found nothing to read" in text.splitlines()
    assert "found nothing" not in summary([report()], OPTIONS)


def test_a_transform_that_dropped_everything_is_named() -> None:
    stats = NodeStats("keep", Kind.TRANSFORM, "filter", records_in=7, dropped=7)
    text = summary([report(nodes=[stats.snapshot(1.0)])], OPTIONS)
    assert "blobs: `keep` dropped all 7 records that it was given" in text.splitlines()
    assert "dropped all" not in summary([report()], OPTIONS)


def test_a_node_of_a_completed_run_that_lost_everything_is_named() -> None:
    stats = NodeStats("table", Kind.SINK, "duckdb", records_in=7, dead=7)
    text = summary([report(nodes=[stats.snapshot(1.0)])], OPTIONS)
    assert "blobs: all 7 records died at `table`" in text.splitlines()
    assert "records died" not in summary([report()], OPTIONS)


def test_the_first_dead_letter_is_one_short_line() -> None:
    said = "at `load`: Http400: not taken\n  (it says: " + "word " * 400 + ")"
    lines = summary([report(first_dead_letter=said)], OPTIONS).splitlines()
    (line,) = (one for one in lines if "it says" in one)
    assert line.startswith("blobs: first dead letter at `load`: Http400: not taken (it says: word ")
    assert line.endswith("…")
    assert len(line) < 330


def test_work_in_incomplete_batches_is_reported() -> None:
    begun = Tally(written=10, tokens_in=1200, tokens_out=300, cost_usd=0.0018)
    text = summary([report(status=RunStatus.FAILED, unsettled=begun)], OPTIONS)
    expected = "not counted yet: 10 written, 1,200 tokens in, 300 out, $0.0018"
    assert f"blobs: in batches that are not complete, {expected}" in text.splitlines()
    assert "not complete" not in summary([report()], OPTIONS)


def test_paid_answers_that_no_record_uses_are_reported() -> None:
    counted = Tally(read=1, written=1, tokens_in=9, cost_usd=0.01)
    text = summary([report(tally=counted, journal_usd=0.03)], OPTIONS)
    expected = "paid $0.0300 over all attempts, $0.0200 of it for answers that no counted record uses"
    assert f"blobs: {expected}" in text.splitlines()
    assert "over all attempts" not in summary([report(tally=counted, journal_usd=0.01)], OPTIONS)
    assert "over all attempts" not in summary([report(tally=counted)], OPTIONS)  # a purged journal


def test_a_field_that_no_record_had_is_named() -> None:
    stats = NodeStats(
        "hide", Kind.TRANSFORM, "mask", records_in=7, aggregate={"absent: emial": 7, "absent: x": 6}
    )
    text = summary([report(nodes=[stats.snapshot(1.0)])], OPTIONS)
    assert "blobs: `hide` found the field `emial` in none of 7 records: check its name" in text.splitlines()
    assert "`x`" not in text


def test_what_a_source_left_out_because_an_earlier_run_had_it_is_said() -> None:
    numbers = {"unchanged": 1203.0, "begun_anew": 2.0}
    source = NodeStats("extract", Kind.SOURCE, "s3", aggregate=numbers).snapshot(2.0)
    text = summary([report(nodes=[source])], OPTIONS).splitlines()
    assert "blobs: `extract` skipped 1,203: unchanged since an earlier run" in text
    assert "blobs: `extract` re-read 2 from the start: replaced since an earlier run" in text
    assert "earlier run" not in summary([report()], OPTIONS)


def test_the_speed_counts_only_what_the_ledger_has() -> None:
    failed = report(tally=Tally(), status=RunStatus.FAILED, error="nothing got through")
    assert summary([failed], OPTIONS, width=1).startswith("blobs: failed in 2.00 s, 0.0/s\n")


def test_without_a_run_nothing_is_printed() -> None:
    assert summary([], OPTIONS) == ""


def test_a_plain_line_says_what_the_run_waits_for() -> None:
    assert plain_line(snapshot(), 1150.4) == (
        "blobs 10.0 s: read 12,000 (1,150/s), written 11,500, dead 3, 4.0 M in flight, waiting for load"
    )


class FakeRun:
    """Only what the displays look at."""

    def __init__(self, shown: RunSnapshot) -> None:
        self._shown = shown

    def snapshot(self) -> RunSnapshot:
        return self._shown


class FakeSession:
    def __init__(self, *entries: Entry) -> None:
        self.entries = {entry.name: entry for entry in entries}


def entry(name: str, shown: RunSnapshot | None = None, ended: RunReport | None = None) -> Entry:
    plan = replace(linear_plan(MemorySource([]), MemorySink()), pipeline=name)
    run = FakeRun(shown) if shown is not None else None
    return Entry(plan, run=run, report=ended)  # type: ignore[arg-type]


def test_json_progress_has_the_counts_and_every_node() -> None:
    line = json_line(entry("blobs", snapshot()))
    assert line is not None
    document = json.loads(line)
    assert document["event"] == "progress"
    assert (document["pipeline"], document["run_id"]) == ("blobs", "blobs-1")
    assert (document["read"], document["written"], document["dead"]) == (12_000, 11_500, 3)
    assert (document["bytes_in_flight"], document["bytes_budget"]) == (4 << 20, 64 << 20)
    assert document["waits_for"] == "load"
    assert document["nodes"]["load"] == {
        "in": 1000, "out": 0, "retries": 3, "utilisation": 0.8, "waiting": "",
    }  # fmt: skip
    assert "\n" not in line


def test_json_progress_ends_with_the_report_and_begins_with_the_run() -> None:
    assert json_line(entry("blobs")) is None
    line = json_line(entry("blobs", snapshot(), report()))
    assert line is not None
    document = json.loads(line)
    assert document["event"] == "ended"
    assert document["status"] == "completed"
    assert document["tally"]["written"] == 800


@pytest.mark.parametrize("width", [50, 62, 80, 100, 200])
def test_the_live_table_keeps_one_row_a_pipeline_at_any_width(width: int) -> None:
    session = FakeSession(
        entry("a_pipeline_with_quite_a_long_name", snapshot()),
        entry("logs", snapshot(draining=True)),
        entry("events", snapshot(), report("events", status=RunStatus.INTERRUPTED)),
        entry("waiting"),
    )
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    console.print(table(session, {}, width))  # type: ignore[arg-type]
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    # room for the ^C that a terminal writes behind the last row
    assert max(map(len, map(str.rstrip, lines))) <= width - 2
    assert [line.split()[-1] for line in lines[2:]] == ["draining", "interrupted", "starting"]


def test_the_live_table_does_not_move_when_figures_grow() -> None:
    def header(shown: RunSnapshot) -> str:
        out = io.StringIO()
        Console(file=out, width=120).print(table(FakeSession(entry("blobs", shown)), {}, 120))  # type: ignore[arg-type]
        return out.getvalue().splitlines()[0]

    small = snapshot(tally=Tally(read=1), elapsed=0.1, bytes_in_flight=0)
    large = snapshot(tally=Tally(read=9_999_999, written=9_999_999, dead=99_999), elapsed=3000.0)
    assert header(small) == header(large)
