"""Options of the verbs: frozen values, read once from the parsed arguments.

Groups that several verbs share come first; a function asks for the group it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from argparse import Namespace

DEFAULT_FILE = "pipelines.yaml"
DEFAULT_STATE_DIR = ".odw"

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

    state_dir: str = DEFAULT_STATE_DIR
    state: str | None = None


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """The file, for hints that repeat a command."""

    file: str = DEFAULT_FILE


@dataclass(frozen=True, kw_only=True)
class PlaceOptions(FileOptions, StateOptions):
    """The file and the state, for hints that repeat a command."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions(FileOptions):
    """Declare the file, its pipelines and overrides."""

    only: tuple[str, ...] = ()
    param: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The display during runs."""

    progress: str = "auto"
    log_format: str | None = None
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class ServerArguments:
    """The Temporal server, in addition to Temporal's own configuration."""

    address: str = ""
    namespace: str = ""
    profile: str = ""
    codec: str = ""
    queue: str = "odw"


@dataclass(frozen=True, kw_only=True)
class RequestOptions(ServerArguments):
    """How a durable run is divided between workers."""

    shards: int = 4
    window: int = 8
    chunk_splits: int = 0
    priority: int = 3
    max_failed_chunks: int = 0
    heartbeat: float = 60


@dataclass(frozen=True, kw_only=True)
class DurableOptions(PlaceOptions, OutputOptions, ServerArguments):
    """Options for following a durable run; `watch` and `cancel` have no others."""

    run: str = ""
    wait: bool = False


@dataclass(frozen=True, kw_only=True)
class RunOptions(PlanOptions, PlaceOptions, OutputOptions):
    """`run`; `resume` is a run's id, "" for the latest invocation, None for a new run."""

    resume: str | None = None
    verify: bool = False
    report: str | None = None
    memory: str | None = None
    drain_limit: str | None = None
    samples: str | None = None
    chaos: str | None = None
    kills: int | None = None
    yes: bool = False
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    dry_run: bool = False
    show: int = 0
    json: bool = False
    traces: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkerPlanOptions(PlanOptions, StateOptions):
    """A file for several workers; `one_machine`: all of them are on this one."""

    one_machine: bool = False


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(WorkerPlanOptions):
    """`validate`."""

    target: str = "local"
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(PlanOptions, StateOptions):
    """`doctor`; `timeout` in seconds, for each connection."""

    timeout: float = 10.0
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ForecastOptions(PlanOptions, StateOptions):
    """`plan`; `sample` records of each source are read, `timeout` is in seconds."""

    sample: int = 20
    timeout: float = 10.0
    diff: bool = False
    json: bool = False
    samples: str | None = None


@dataclass(frozen=True, kw_only=True)
class GraphOptions(PlanOptions):
    """`graph`."""

    format: str = "text"


@dataclass(frozen=True, kw_only=True)
class ConnectorsOptions:
    """`connectors`."""

    action: str = "list"
    name: str = ""
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class TestOptions(FileOptions):
    """`test`; `only` names cases."""

    only: tuple[str, ...] = ()
    update: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """`init`; with `connector`, the first argument is the folder instead of the template."""

    template: str = ""
    folder: str = ""
    connector: str = ""


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """`explain`; "" lists all codes."""

    code: str = ""


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    """`completion`."""

    shell: str = "bash"


@dataclass(frozen=True, kw_only=True)
class SchemaOptions:
    """`schema`; it has no options."""


@dataclass(frozen=True, kw_only=True)
class RunsOptions(StateOptions):
    """`runs`; `file` is None when none was named."""

    action: str = "list"
    pipeline: str = ""
    status: str = ""
    limit: int = 50
    json: bool = False
    watch: bool = False
    interval: float = 2.0
    run: str = ""
    file: str | None = None
    yes: bool = False
    older_than: str = ""
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class TapOptions(PlanOptions, StateOptions):
    """`tap`; `limit` records of each source are read.

    Of a run in progress, `node` names the run and `file` its node, and `limit` samples are printed.
    """

    node: str = ""
    limit: int = 10


@dataclass(frozen=True, kw_only=True)
class TopOptions(StateOptions):
    """`top`; `interval` in seconds."""

    interval: float = 2.0
    once: bool = False
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class DlqOptions(StateOptions, OutputOptions):
    """`dlq`; `file` is None when none was named, `store` selects where to look."""

    action: str = "list"
    names: tuple[str, ...] = ()
    pipeline: str = ""
    run: str = ""
    node: str = ""
    key: str = ""
    status: str = "open"
    store: str = "all"
    file: str | None = None
    limit: int = 0
    json: bool = False
    patch: tuple[str, ...] = ()
    dry_run: bool = False
    force: bool = False
    reason: str = ""
    param: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BookmarksOptions(StateOptions):
    """`bookmarks`."""

    action: str = "list"
    pipeline: str = ""
    node: str = ""
    key: str = ""
    keys: bool = False
    limit: int = 50
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class JournalOptions(StateOptions):
    """`journal`; `name` is a record's key or the beginning of an answer's."""

    action: str = "list"
    name: str = ""
    pipeline: str = ""
    run: str = ""
    model: str = ""
    older_than: str = ""
    all: bool = False
    trace: bool = False
    limit: int = 50
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """`serve`."""

    host: str = "127.0.0.1"
    port: int = 4200
    state_dir: str = DEFAULT_STATE_DIR
    insecure: bool = False
    allow_host: tuple[str, ...] = ()
    path_prefix: str = ""
    file: str = ""
    demo: bool = False
    samples: str = ""
    topics_port: int | None = None
    files_port: int | None = None
    traces: str = ""


@dataclass(frozen=True, kw_only=True)
class SqlOptions:
    """`sql`; `query` is "-" for standard input, "" with `snapshot`; `database` is "" for the warehouse."""

    query: str = ""
    database: str = ""
    limit: int = 1_000
    output: str = "table"
    snapshot: bool = False
    state_dir: str = DEFAULT_STATE_DIR


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """`eval`; `against` is "" for no other run."""

    records: str
    truth: str
    key: str = "id"
    against: str = ""
    min: float = 0.0
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class SandboxOptions:
    """`sandbox`; `services` are separated by commas."""

    services: str = "s3,llm,ingest"
    state_dir: str = DEFAULT_STATE_DIR
    samples: str | None = None
    no_stdin: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(PlanOptions, StateOptions, ServerArguments):
    """`worker`; times in seconds, `chunks_per_second` None for no limit."""

    roles: tuple[str, ...] = ()
    slots: int = 4
    grace: float = 60.0
    stall_after: float = 600.0
    chunks_per_second: float | None = None
    build_id: str = ""
    memory: str | None = None
    metrics: str = ""
    otlp: str = ""
    traces: str = ""
    log_format: str = "json"


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(WorkerPlanOptions, RequestOptions, DurableOptions):
    """`submit`; `resume` is the run to continue."""

    resume: str | None = None


@dataclass(frozen=True, kw_only=True)
class ControlOptions(DurableOptions):
    """`control`; `number` is the new window."""

    action: str = ""
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(WorkerPlanOptions, RequestOptions):
    """`schedule`."""

    action: str = "list"
    pipeline: str = ""
    overlap: str = ""
    catch_up: str = ""
    json: bool = False
