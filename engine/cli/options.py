"""Options of the verbs: frozen values, declared with their help, and read once from the parsed arguments.

Groups that several verbs share come first; a function asks for the group it needs.
Those of durable runs are in `engine.cli.durable.options`.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, fields
from typing import TypeVar

from engine.cli.arguments import argument, more_than_none, none_or_more, option, port

DEFAULT_FILE = "pipelines.yaml"
DEFAULT_STATE_DIR = ".odw"

WAREHOUSE = "directory of the warehouse (default: .odw)"
LOG_FORMATS = ("json", "console", "none")

LATEST = ""  # resumes all unfinished runs of the latest invocation

T = TypeVar("T")


def parsed(kind: type[T], arguments: Namespace) -> T:
    """Return the options of a verb; options that its action does not take have their defaults."""
    given = vars(arguments)
    values = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in fields(kind)  # type: ignore[arg-type]  # every options class is a dataclass
        if field.name in given
        for value in (given[field.name],)
    }
    return kind(**values)


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """Where runs and dead letters are stored: in a directory, or in what `state` names."""

    state_dir: str = option(
        DEFAULT_STATE_DIR, "directory of run state and of the sandbox's warehouse (default: .odw)", "DIR"
    )
    state: str | None = option(
        None,
        "state store: postgresql://USER@HOST/DATABASE or a directory (default: ODW_STATE, else --state-dir)",
        "WHERE",
    )


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The file, for hints that repeat a command."""

    file: str = argument(DEFAULT_FILE, f"pipeline file (default: {DEFAULT_FILE})", "FILE", nargs="?")


@dataclass(frozen=True, kw_only=True)
class PlaceOptions(FileOptions, StateOptions):
    """The file and the state, for hints that repeat a command."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(FileOptions):
    """Declare the file, its pipelines and overrides."""

    only: tuple[str, ...] = option((), "run only this pipeline; repeatable", "NAME")
    param: tuple[str, ...] = option((), "set a run parameter; repeatable", "PIPELINE.NAME=VALUE")
    assignments: tuple[str, ...] = option(
        (),
        "override a value of the file, e.g. pipelines.blobs.dead_letters.max=10; repeatable",
        "PATH=VALUE",
        flag="--set",
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The display during runs."""

    progress: str = option(
        "auto",
        "progress display (default: auto: live on a terminal, otherwise a plain line every few seconds)",
        choices=("auto", "live", "plain", "json", "none"),
    )
    log_format: str | None = option(
        None,
        "format of structured events on standard error (default: json unless it is a terminal)",
        choices=LOG_FORMATS,
    )
    quiet: bool = option(False, "print errors only")


@dataclass(frozen=True, kw_only=True)
class RunOptions(PlanOptions, PlaceOptions, OutputOptions):
    """`run`; `resume` is a run's id, "" for the latest invocation, None for a new run."""

    resume: str | None = option(
        None, "resume a run, or all unfinished runs of the latest invocation", "RUN", nargs="?", const=LATEST
    )
    verify: bool = option(False, "compare the final counts with the ledger and with what the sinks hold")
    report: str | None = option(None, "write a JSON report to FILE", "FILE")
    memory: str | None = option(None, "memory limit for all pipelines, e.g. 512MiB (default: 256MiB)", "SIZE")
    drain_limit: str | None = option(
        None, "time allowed to deliver what was read before a signal, e.g. 2m (default: 30s)", "TIME"
    )
    samples: str | None = option(None, "sample documents for the embedded S3", "DIR")
    chaos: str | None = option(
        None,
        "test each pipeline under kills and failures, on scratch sinks, and report differences",
        "SEED",
        nargs="?",
        const="0",
    )
    kills: int | None = option(
        None, "with --chaos, kill each disturbed run N times (default: 3)", "N", type=int
    )
    yes: bool = option(False, "allow nodes that cost money with --dry-run and --chaos")
    limit: int | None = option(None, "stop each source after N records", "N", type=int)
    sample: int | None = option(None, "read N records of each source, drawn over its splits", "N", type=int)
    seed: int = option(0, "draw another sample (default: 0)", "N", type=int)
    dry_run: bool = option(False, "deliver nothing and store nothing but paid answers: sinks only count")
    show: int = option(0, "with --dry-run, print N records of each sink", "N", type=int)
    json: bool = option(False, "print the JSON report instead of the summary")
    traces: str = option("", "send OpenTelemetry traces to URL, over HTTP (OTLP)", "URL")


@dataclass(frozen=True, kw_only=True)
class WorkerPlanOptions(PlanOptions, StateOptions):
    """A file for several workers; `one_machine`: all of them are on this one."""

    one_machine: bool = option(False, "with --target temporal: all workers run on this machine")


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(WorkerPlanOptions):
    """`validate`."""

    target: str = option(
        "local",
        "temporal: also report what cannot work with several workers (default: local)",
        choices=("local", "temporal"),
    )
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(StateOptions, PlanOptions):
    """`doctor`; `timeout` in seconds, for each connection."""

    timeout: float = option(
        10.0, "time limit for each connection (default: 10)", "SECONDS", type=more_than_none
    )
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(StateOptions, PlanOptions):
    """`plan`; `sample` records of each source are read, `timeout` is in seconds."""

    sample: int = option(20, "records of each source to read (default: 20)", "N", type=none_or_more)
    timeout: float = option(10.0, "time limit for each listing (default: 10)", "SECONDS", type=more_than_none)
    diff: bool = option(False, "show what has changed since the last run")
    samples: str | None = option(None, "sample documents for the embedded S3", "DIR")
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True)
class GraphOptions(PlanOptions):
    """`graph`."""

    format: str = option("text", "output format (default: text)", choices=("text", "mermaid"))


@dataclass(frozen=True, kw_only=True)
class ConnectorsOptions:
    """`connectors`."""

    action: str = "list"
    name: str = argument(
        "", "component name, kind.name where a name is ambiguous, or package.module:name", "NAME"
    )
    json: bool = option(False, "print one JSON array")


@dataclass(frozen=True, kw_only=True)
class TestOptions:
    """`test`; `only` names cases."""

    file: str = argument(
        DEFAULT_FILE, f"pipeline file, file of cases, or folder (default: {DEFAULT_FILE})", "FILE", nargs="?"
    )
    only: tuple[str, ...] = option((), "only this case; repeatable", "CASE")
    update: bool = option(False, "replace the expected results by the actual ones")
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """`init`; with `connector`, the first argument is the folder instead of the template."""

    template: str = argument("", "name of the template", "TEMPLATE", nargs="?")
    folder: str = argument("", "folder (default: this one)", "DIR", nargs="?")
    connector: str = option("", "a package with a source of this name (DIR: odw-NAME)", "NAME")


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """`explain`; "" lists all codes."""

    code: str = argument("", "leave it out to list all", "CODE", nargs="?")


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """`completion`."""

    shell: str = argument("bash", "which shell", choices=("bash", "zsh", "fish"))


@dataclass(frozen=True, kw_only=True)
class SchemaOptions:
    """`schema`; it has no options."""


@dataclass(frozen=True, kw_only=True)
class RunsOptions(StateOptions):
    """`runs`; `file` is None when none was named."""

    action: str = "list"
    pipeline: str = option("", "only this pipeline", "NAME")
    status: str = option(
        "",
        "only runs of this status",
        choices=("completed", "failed", "outage", "interrupted", "running", "killed"),
    )
    limit: int = option(50, "show the newest N; 0 shows all (default: 50)", "N", type=none_or_more)
    json: bool = option(False, "print one JSON object per line")
    watch: bool = option(False, "update the list until Ctrl-C")
    interval: float = option(2.0, "time between two updates (default: 2)", "SECONDS", type=more_than_none)
    run: str = argument("", "id of the run, as `runs list` shows it", "RUN")
    file: str | None = option(
        None, f"compare the run's plan with this file (default: {DEFAULT_FILE})", "FILE"
    )
    yes: bool = option(False, "forget the run even if it has open dead letters")
    older_than: str = option(
        "", "only runs that ended longer ago than this, e.g. 12h or 30d", "AGE", required=True
    )
    failed: bool = option(False, "failed and interrupted runs too; they can no longer be resumed")


@dataclass(frozen=True, kw_only=True)
class TapOptions(PlanOptions, StateOptions):
    """`tap`; `limit` records of each source are read.

    Of a run in progress, `node` names the run and `file` its node, and `limit` samples are printed.
    """

    node: str = argument(
        "", "PIPELINE.NODE, or NODE where only one pipeline has it; or a run in progress", "NODE|RUN"
    )
    file: str = argument(
        DEFAULT_FILE,
        f"pipeline file (default: {DEFAULT_FILE}); after a run, the node",
        "FILE|NODE",
        nargs="?",
    )
    limit: int = option(
        10, "records of each source to read, or samples of a run to print (default: 10)", "N", type=int
    )


@dataclass(frozen=True, kw_only=True)
class TopOptions(StateOptions):
    """`top`; `interval` in seconds."""

    interval: float = option(2.0, "time between two updates (default: 2)", "SECONDS", type=more_than_none)
    once: bool = option(False, "print the runs once and exit")
    json: bool = option(False, "print one JSON array per update")


@dataclass(frozen=True, kw_only=True)
class DlqOptions(StateOptions, OutputOptions):
    """`dlq`; `file` is None when none was named, `store` selects where to look."""

    action: str = "list"
    names: tuple[str, ...] = argument((), "ids from `dlq list`, or record keys", "DEAD_LETTER", nargs="*")
    pipeline: str = option("", "only this pipeline", "NAME")
    run: str = option("", "only this run", "RUN")
    node: str = option("", "only this node", "NAME")
    key: str = option("", "only the record with this key", "KEY")
    status: str = option(
        "open",
        "only this status; recovered: the record has been delivered since (default: open)",
        choices=("open", "replayed", "recovered", "discarded", "all"),
    )
    file: str | None = option(None, f"pipeline file (default: {DEFAULT_FILE})", "FILE")
    store: str = option(
        "all",
        "where to look: the engine's state store, the ingest service, or both (default: all)",
        choices=("all", "engine", "service"),
    )
    limit: int = option(0, "replay at most N, oldest first; 0: all", "N", type=none_or_more)
    json: bool = option(False, "print one JSON object per line")
    patch: tuple[str, ...] = option(
        (), "patch the records first: FIELD=VALUE or FIELD~REGEX~REPLACEMENT; repeatable", "PATCH"
    )
    dry_run: bool = option(False, "print what would be sent, without sending it")
    force: bool = option(
        False, "replay named dead letters that are closed, too: their records replace newer rows"
    )
    reason: str = option("", "reason, shown by `dlq show`", "TEXT", required=True)
    param: tuple[str, ...] = ()  # declared by `PlanOptions`
    assignments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BookmarksOptions(StateOptions):
    """`bookmarks`."""

    action: str = "list"
    pipeline: str = option("", "only this pipeline", "NAME")
    node: str = option("", "only this node", "NAME")
    key: str = option("", "only this object or file", "KEY")
    keys: bool = option(False, "list each bookmark, one per line")
    limit: int = option(
        50, "with --keys: show the first N; 0 shows all (default: 50)", "N", type=none_or_more
    )
    json: bool = option(False, "print one JSON object per line")


@dataclass(frozen=True, kw_only=True)
class JournalOptions(StateOptions):
    """`journal`; `name` is a record's key or the beginning of an answer's."""

    action: str = "list"
    name: str = argument("", "a record's key, or a prefix of an answer's key", "RECORD")
    pipeline: str = option("", "only answers that this pipeline paid for", "NAME")
    run: str = option("", "only answers that this run paid for", "RUN")
    model: str = option("", "only answers of this model", "NAME")
    older_than: str = option("", "only answers older than this, e.g. 12h or 30d", "AGE")
    all: bool = option(False, "delete all answers")
    trace: bool = option(False, "print the prompt and the raw reply of each call, as text")
    limit: int = option(50, "show the newest N; 0 shows all (default: 50)", "N", type=none_or_more)
    json: bool = option(False, "print one JSON object per line")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """`serve`."""

    file: str = argument("", "pipelines that clients may start (default: none)", "FILE", nargs="?")
    demo: bool = option(
        False, "also serve dead letters at port 9999 and the sample files at port 9500, without keys"
    )
    topics_port: int | None = option(
        None, "serve dead letters as topic messages on this port", "PORT", type=port
    )
    files_port: int | None = option(
        None, "serve the sample bucket on this port, without a key", "PORT", type=port
    )
    samples: str = option("", "sample documents (default: built-in)", "DIR")
    host: str = option("127.0.0.1", "address to listen on (default: 127.0.0.1)")
    port: int = option(4200, "port to listen on; 0 picks a free one (default: 4200)", type=port)
    insecure: bool = option(False, "listen on other interfaces without keys; only for trusted networks")
    allow_host: tuple[str, ...] = option(
        (), "also answer to this host name without keys; repeatable (default: names of this machine)", "NAME"
    )
    traces: str = option("", "send traces of the runs to URL, over HTTP (OTLP)", "URL")
    path_prefix: str = option("", "strip this prefix from paths", "PATH")
    state_dir: str = option(DEFAULT_STATE_DIR, WAREHOUSE, "DIR")


@dataclass(frozen=True, kw_only=True)
class SqlOptions:
    """`sql`; `query` is "-" for standard input, "" with `snapshot`; `database` is "" for the warehouse."""

    query: str = argument("", "one SELECT; - reads it from stdin", "QUERY", nargs="?")
    database: str = option("", "a DuckDB file to query instead of the warehouse", "FILE")
    limit: int = option(1_000, "maximum rows, up to 10000 (default: 1000)", "N", type=int)
    output: str = option("table", "format of the rows (default: table)", choices=("table", "json", "csv"))
    snapshot: bool = option(False, "copy the warehouse to a file and print its path instead")
    state_dir: str = option(DEFAULT_STATE_DIR, WAREHOUSE, "DIR")


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """`eval`; `against` is "" for no other run."""

    records: str = argument("", "file or pattern of extracted records", "RECORDS")
    truth: str = argument("", "file or pattern of correct records", "TRUTH")
    key: str = option(
        "id", "field to match by (default: id); FIELD=OTHER if it is OTHER in the truth", "FIELD"
    )
    against: str = option("", "records of another run", "FILE")
    min: float = option(0.0, "exit with 1 if fewer values are right", "SHARE", type=float)
    json: bool = option(False, "print one JSON object")


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """`sandbox`; `services` are separated by commas."""

    services: str = option("s3,llm,ingest", "services to run: s3, llm, ingest (default: all)", "NAMES")
    state_dir: str = option(DEFAULT_STATE_DIR, WAREHOUSE, "DIR")
    samples: str | None = option(None, "sample documents for S3", "DIR")
    no_stdin: bool = option(False, "serve until a signal arrives; ignore standard input")
