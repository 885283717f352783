"""From arguments to plans, resumed runs, output modes and report files."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.arguments import add_options, this_command
from engine.cli.display.output import Output
from engine.cli.display.report_file import check_target, write_report
from engine.cli.durable.options import RequestOptions, ServerArguments, SubmitOptions
from engine.cli.durable.server import request_of
from engine.cli.loading import load_plans, resolve_aliases
from engine.cli.options import OutputOptions, StateOptions, WorkerPlanOptions, parsed
from engine.cli.verbs import VerbParser
from engine.contract.acks import Tally
from engine.errors import ConfigError, ServiceError, StateError
from engine.execution.report import RunReport
from engine.execution.session import starting
from engine.state.records import RunStatus

FILE = """\
version: 1
pipelines:
  first:
    params: {rows: 3}
    nodes:
      read: {source: blob, with: {records: "${params.rows}"}}
      out: {sink: stdout}
    on_complete: second
  second:
    nodes:
      read: {source: logs, with: {records: 1}}
      out: {sink: jsonl, with: {path: out.jsonl}}
    on_cancel: [third]
  third:
    nodes:
      read: {source: events, with: {records: 1}}
      out: {sink: jsonl, with: {path: out.jsonl}}
  broken:
    nodes:
      read: {source: blob, with: {records: "${ODW_TEST_UNSET:?set it}"}}
      out: {sink: stdout}
"""

OPTIONS = StateOptions()


def options(path: Path, **given: Sequence[str]) -> WorkerPlanOptions:
    return WorkerPlanOptions(file=str(path), **{name: tuple(values) for name, values in given.items()})  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pipelines.yaml"
    path.write_text(FILE, encoding="utf-8")
    return path


def test_only_includes_followers_and_ignores_other_errors(file: Path) -> None:
    plans = load_plans(options(file, only=["first"]))
    assert list(plans) == ["first", "second", "third"]
    assert starting(plans, ["first"]) == ["first"]


@pytest.mark.slow
def test_verbs_about_what_was_run_take_aliases_too(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    file.write_text("aliases: {one: third}\n" + FILE, encoding="utf-8")
    assert main(["run", "--only", "one", "--progress", "none", "--log-format", "none"]) == 0
    capsys.readouterr()
    for asked, listed in (("one", ["third"]), ("third", ["third"]), ("first", [])):
        assert main(["runs", "list", "--pipeline", asked, "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["pipeline"] for line in lines] == listed


def test_only_takes_aliases(file: Path) -> None:
    file.write_text("aliases: {one: first, three: third}\n" + FILE, encoding="utf-8")
    assert resolve_aliases(options(file, only=["one", "second"])) == ["first", "second"]
    assert list(load_plans(options(file, only=["three"]))) == ["third"]
    with pytest.raises(ConfigError, match="--only: unknown pipeline `tree`, did you mean `three`"):
        load_plans(options(file, only=["tree"]))


def test_without_only_everything_that_is_wrong_is_reported(file: Path) -> None:
    with pytest.raises(ConfigError, match="set it"):
        load_plans(options(file))
    with pytest.raises(ConfigError, match="set it"):
        load_plans(options(file, only=["broken"]))


def test_an_unknown_pipeline_gets_the_nearest_name(file: Path) -> None:
    with pytest.raises(ConfigError, match="unknown pipeline `frist`, did you mean `first`"):
        load_plans(options(file, only=["frist"]))


def test_refused_value_is_reported_where_it_was_given(file: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--param: first\.rows: expected greater than or equal to 1, got -1"
    ):
        load_plans(options(file, only=["first"], param=["first.rows=-1"]))


def test_run_of_an_unknown_pipeline_asks_for_its_file(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"pipelines\.yaml does not have `hourly` of the run: name"):
        load_plans(options(file), only=["first", "hourly"])


def test_what_others_lead_to_does_not_start_by_itself(file: Path) -> None:
    plans = load_plans(options(file, only=["first", "second", "third"]))
    assert starting(plans, []) == ["first"]
    assert starting(plans, ["second", "third"]) == ["second", "third"]


def test_given_parameters_win_over_those_of_a_resumed_run(file: Path) -> None:
    resumed = load_plans(options(file), only=["first"], params={"first": {"rows": 7}})
    changed = load_plans(options(file, param=["first.rows=9"]), only=["first"], params={"first": {"rows": 7}})
    assert resumed["first"].params["rows"] == 7
    assert changed["first"].params["rows"] == 9


@pytest.mark.parametrize(
    ("wanted", "stdout", "stderr", "only", "mode"),
    [
        ("auto", False, False, "second", "plain"),
        ("auto", False, True, "second", "live"),
        ("auto", True, True, "second", "live"),
        ("auto", True, True, "first", "plain"),
        ("auto", False, True, "first", "live"),
        ("json", True, True, "second", "json"),
        ("none", True, True, "second", "none"),
    ],
)
def test_progress_is_live_on_a_terminal_unless_records_go_there_too(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    stdout: bool,
    stderr: bool,
    only: str,
    mode: str,
) -> None:
    class Stream(io.StringIO):
        def __init__(self, terminal: bool) -> None:
            super().__init__()
            self.terminal = terminal

        def isatty(self) -> bool:
            return self.terminal

    plans = load_plans(options(file, only=[only]))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", Stream(stdout))
    monkeypatch.setattr("sys.stderr", Stream(stderr))
    given = OutputOptions(quiet=False, progress=wanted, log_format="none")
    assert Output(given, {only: plans[only]}).mode == mode


def test_the_summary_keeps_off_standard_output_when_records_go_there(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = load_plans(options(file, only=["first"]))
    given = OutputOptions(quiet=False, progress="none", log_format="none")
    Output(given, {"first": plans["first"]}).conclude("the summary\n")
    assert capsys.readouterr() == ("", "the summary\n")
    Output(given, {"second": plans["second"]}).conclude("the summary\n")
    assert capsys.readouterr() == ("the summary\n", "")


def test_what_is_reported_with_json_progress_is_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = OutputOptions(quiet=False, progress="json", log_format="none")
    Output(given, {}).say("draining")
    assert json.loads(capsys.readouterr().err) == {"event": "message", "text": "draining"}


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(OutputOptions(quiet=True, progress="live", log_format="none"), {})
    output.say("x")
    output.conclude("y")
    assert output.mode == "none"
    assert capsys.readouterr() == ("", "")


def test_a_report_is_written_whole_in_its_documented_shape(tmp_path: Path) -> None:
    run = RunReport("a", "a-1", RunStatus.COMPLETED, Tally(read=2, written=2), 1.5)
    path = tmp_path / "report.json"
    path.write_text("an older one", encoding="utf-8")
    write_report(path, datetime(2026, 1, 2, tzinfo=UTC), OPTIONS, {"a": run})
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["version"] == 1
    assert document["started_at"].startswith("2026-01-02T00:00:00")
    assert Path(document["state_dir"]).is_absolute()
    assert document["pipelines"] == {"a": run.to_json()}
    assert [item.name for item in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_report_to_a_pipe_does_not_replace_the_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_report(pipe, datetime(2026, 1, 2, tzinfo=UTC), OPTIONS, {})
        assert json.loads(os.read(reader, 10_000))["pipelines"] == {}
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
@pytest.mark.parametrize("there", [True, False])
def test_a_report_is_written_through_a_link(tmp_path: Path, *, there: bool) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link"
    if there:
        target.write_text("an older and much longer one" * 100, encoding="utf-8")
    link.symlink_to(target)
    check_target(link)
    write_report(link, datetime(2026, 1, 2, tzinfo=UTC), OPTIONS, {})
    assert json.loads(target.read_text(encoding="utf-8"))["pipelines"] == {}
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, target]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs links to open files")
def test_a_report_to_redirected_output_continues_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to("/proc/self/fd/1")
    os.write(1, b"first\n")
    write_report(link, datetime(2026, 1, 2, tzinfo=UTC), OPTIONS, {})
    os.write(1, b"last\n")
    lines = capfd.readouterr().out.splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    assert json.loads("".join(lines[1:-1]))["pipelines"] == {}
    assert link.is_symlink()


def test_a_report_needs_permission_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path or mode != os.W_OK)
    with pytest.raises(ConfigError, match="no permission to write to "):
        check_target(tmp_path / "report.json")


def test_a_report_that_cannot_be_written_is_found_out_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a directory"):
        check_target(tmp_path)
    with pytest.raises(ConfigError, match="no such directory: "):
        check_target(tmp_path / "missing" / "report.json")
    with pytest.raises(StateError, match="cannot write the report"):
        write_report(tmp_path / "missing" / "r.json", datetime(2026, 1, 2, tzinfo=UTC), OPTIONS, {})


def test_validate_shows_each_pipeline_with_its_nodes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(file), "--only", "first"]) == 0
    assert capsys.readouterr().out == (
        f"{file}: 3 pipelines, 6 nodes: valid\n"
        "  first: read → out\n"
        "  second: read → out\n"
        "  third: read → out\n"
    )


def test_validate_for_temporal_finds_what_other_machines_cannot_reach(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["validate", str(file), "--only", "third", "--target", "temporal"]
    assert main(["validate", str(file), "--only", "third"]) == 0
    capsys.readouterr()
    assert main([*asked, "--json"]) == 2
    shown = json.loads(capsys.readouterr().out)
    assert (shown["valid"], shown["pipelines"]) == (False, {})
    assert [problem["path"] for problem in shown["problems"]] == ["", "pipelines.third.nodes.out.sink"]
    assert main([*asked, "--one-machine"]) == 0
    assert "1 pipeline, 2 nodes: valid, and can run on Temporal" in capsys.readouterr().out


def test_validate_for_temporal_warns_of_what_every_worker_needs(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ODW_TEST_UNSET", raising=False)
    text = FILE.replace(":?set it", ":-5").replace("{sink: stdout}", "{sink: jsonl, with: {path: o}}")
    file.write_text(text, encoding="utf-8")
    asked = ["validate", str(file), "--target", "temporal", "--one-machine"]
    assert main([*asked, "--only", "third"]) == 0
    assert capsys.readouterr().err == ""
    assert main([*asked, "--only", "broken"]) == 0
    warned = capsys.readouterr().err
    assert warned.startswith(f"warning: {file}:")
    assert "not set here, so defaults apply: `ODW_TEST_UNSET`" in warned


def test_validate_shows_every_problem_with_file_line_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "version: 1\npipelines:\n  one:\n    nodes:\n"
        "      read: {source: blobb, with: {records: 3}}\n"
        "      out: {sink: stdout, batchsize: 3}\n",
        encoding="utf-8",
    )
    assert main(["validate", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "2 problems:"
    assert lines[1].startswith(
        f"{path}:5:22: pipelines.one.nodes.read.source: unknown source `blobb`, did you"
    )
    assert lines[2].startswith(f"{path}:6:27: pipelines.one.nodes.out")
    assert "batchsize" in lines[2]

    assert main(["validate", str(path), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert [(one["line"], one["column"]) for one in document["problems"]] == [(5, 22), (6, 27)]


def test_connectors_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connectors", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"kind": "sink", "name": "ingest"}.items() <= next(
        one for one in listed if one["name"] == "ingest"
    ).items()
    assert main(["connectors", "show", "jsonl"]) == 0
    pages = capsys.readouterr().out
    assert "source jsonl\n" in pages
    assert "sink jsonl\n" in pages
    assert main(["connectors", "show", "sink.jsonl"]) == 0
    assert "source jsonl\n" not in capsys.readouterr().out
    assert main(["connectors", "show", "jsnol"]) == 2
    assert "did you mean `jsonl`" in capsys.readouterr().err


def test_keys_of_mappings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connectors", "show", "source.http"]) == 0
    page = capsys.readouterr().out
    assert "      type  (page)\n          Numbered pages, until one is empty\n      end_statuses  (" in page
    assert "\n      field  (string, required)\n" in page
    assert main(["connectors", "show", "map"]) == 0
    assert capsys.readouterr().out.count("rename  (object)") == 1


def test_the_required_keys_of_a_mapping_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "connections: {c: {url: http://127.0.0.1:9}}\n"
        "pipelines: {p: {nodes: {\n"
        "  r: {source: http, with: {paging: page, incremental: at}},\n"
        "  w: {sink: stdout}}}}\n"
    )
    assert main(["validate", str(file)]) == 2
    said = capsys.readouterr().err
    assert "with.paging: expected a mapping with `type`, got 'page'" in said
    assert "with.incremental: expected a mapping with `field`, `parameter`, got 'at'" in said


@pytest.mark.slow
def test_every_component_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connectors", "list", "--json"]) == 0
    for one in json.loads(capsys.readouterr().out):
        assert main(["connectors", "show", f"{one['kind']}.{one['name']}"]) == 0
        page = capsys.readouterr().out
        assert page.startswith(f"{one['kind']} {one['name']}\n\n{one['summary']}")
        assert "\nwith:\n" in page


@pytest.mark.slow
def test_graph_and_schema_print_what_they_should(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(file), "--only", "third"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "third"
    assert main(["graph", str(file), "--only", "third", "--format", "mermaid"]) == 0
    assert capsys.readouterr().out.startswith("%% third\nflowchart LR\n")
    assert main(["schema"]) == 0
    assert "$schema" in json.loads(capsys.readouterr().out)


def test_hints_name_the_interpreter_of_an_inactive_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["engine/__main__.py"])
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr("sys.prefix", str(tmp_path / ".venv"))

    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert this_command() == ".venv/bin/python -m engine"
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / ".venv"))
    assert this_command() == "python -m engine"
    monkeypatch.setattr("sys.argv", ["/usr/bin/odw"])
    assert this_command() == "odw"


@pytest.mark.parametrize(("given", "seconds"), [([], 30.0), (["--drain-limit", "2m"], 120.0)])
def test_the_drain_limit_is_the_engines(
    file: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], seconds: float
) -> None:
    limits: list[object] = []

    class Stop(Exception):  # noqa: N818 - ends the command
        pass

    def engine(**options: object) -> None:
        limits.append(options["drain_limit"])
        raise Stop

    monkeypatch.setattr("engine.cli.local.run.Engine", engine)
    main(["run", str(file), "--only", "first", *given])
    assert limits == [seconds]


def test_a_drain_limit_that_is_no_time_is_reported(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(file), "--only", "first", "--drain-limit", "soon"]) == 2
    assert "--drain-limit: expected a duration such as 500ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--chunk-splits", "--heartbeat", "--max-failed-chunks", "--shards", "--window"]
)
def test_sizes_of_durable_runs_are_not_negative(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", option, "-1"]) == 2
    assert f"argument {option}: must be" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "seconds"), [([], 60.0), (["--heartbeat", "5"], 5.0)])
def test_heartbeat_timeout_is_set_per_run(given: list[str], seconds: float) -> None:
    parser = VerbParser()
    add_options(parser, ServerArguments)
    add_options(parser, RequestOptions)

    options = parsed(SubmitOptions, parser.parse_args(given))
    assert request_of(options, "blobs").heartbeat == seconds


def test_database_requires_the_one_machine_option(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody(options: ServerArguments) -> None:
        raise ServiceError("no server was to be asked")

    monkeypatch.setattr("engine.cli.durable.submit.client_of", nobody)
    asked = ["submit", str(file), "--only", "third", "--state", "postgresql://odw@localhost/odw"]

    assert main(asked) == 2
    assert "or pass --one-machine if all workers run on this machine" in capsys.readouterr().err
    assert main([*asked, "--one-machine"]) == 3
    assert "no server was to be asked" in capsys.readouterr().err, "the file was no obstacle"
