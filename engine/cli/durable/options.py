"""Options of the verbs for durable runs."""

from __future__ import annotations

from dataclasses import dataclass

from engine.cli.arguments import argument, at_least_one, more_than_none, none_or_more, option
from engine.cli.options import (
    LOG_FORMATS,
    OutputOptions,
    PlaceOptions,
    PlanOptions,
    StateOptions,
    WorkerPlanOptions,
)


@dataclass(frozen=True, kw_only=True)
class ServerArguments:
    """The Temporal server, in addition to Temporal's own configuration."""

    address: str = option("", "address of the Temporal server", "HOST:PORT")
    namespace: str = option("", "Temporal namespace", "NAME")
    profile: str = option("", "profile in Temporal's configuration file", "NAME")
    codec: str = option("", "payload codec; every process needs the same one", "MODULE:CLASS")
    queue: str = option("odw", "task queue prefix (default: odw)", "NAME")


@dataclass(frozen=True, kw_only=True)
class RequestOptions(ServerArguments):
    """How a durable run is divided between workers."""

    shards: int = option(4, "workflows per run (default: 4)", "N", type=at_least_one)
    window: int = option(8, "concurrent chunks per workflow (default: 8)", "N", type=at_least_one)
    chunk_splits: int = option(
        0, "splits per chunk (default: depends on the number of splits)", "N", type=none_or_more
    )
    priority: int = option(
        3, "task priority: 1 (highest) to 5 (default: 3)", "1..5", type=int, choices=range(1, 6)
    )
    max_failed_chunks: int = option(
        0, "fail the run after more than N failed chunks (default: 0)", "N", type=none_or_more
    )
    heartbeat: float = option(60, "heartbeat timeout in seconds (default: 60)", "SECONDS", type=at_least_one)
    one_machine: bool = option(
        False, "all workers run on this machine, even though the state store is a database"
    )


@dataclass(frozen=True, kw_only=True)
class DurableOptions(PlaceOptions, OutputOptions, ServerArguments):
    """Options for following a durable run; `watch` and `cancel` have no others."""

    run: str = argument("", "id of the run, as `runs list` shows it", "RUN")
    wait: bool = option(False, "watch the runs until they end")


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(PlanOptions, StateOptions, ServerArguments):
    """`worker`; times in seconds, `chunks_per_second` None for no limit."""

    roles: tuple[str, ...] = option(
        (),
        "poll only this task queue; repeatable (default: all)",
        flag="--role",
        choices=("workflows", "planning", "work"),
    )
    slots: int = option(4, "chunks processed concurrently (default: 4)", "N", type=at_least_one)
    grace: float = option(
        60.0, "shutdown grace period in seconds (default: 60)", "SECONDS", type=more_than_none
    )
    stall_after: float = option(
        600.0,
        "stop a chunk that makes no progress for this long (default: 600)",
        "SECONDS",
        type=more_than_none,
    )
    chunks_per_second: float | None = option(
        None,
        "maximum chunks started per second on the whole queue (default: no limit)",
        "N",
        type=more_than_none,
    )
    build_id: str = option(
        "",
        "version of file and code; a run stays with the version that started it (default: unversioned)",
        "ID",
    )
    memory: str | None = option(None, "memory limit, e.g. 512MiB (default: 256MiB)", "SIZE")
    metrics: str = option("", "serve Prometheus metrics at HOST:PORT", "HOST:PORT")
    otlp: str = option("", "send OpenTelemetry metrics to URL", "URL")
    traces: str = option("", "send OpenTelemetry traces to URL, over HTTP (OTLP)", "URL")
    log_format: str = option(
        "json", "format of events on standard error (default: json)", choices=LOG_FORMATS
    )


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(WorkerPlanOptions, RequestOptions, DurableOptions):
    """`submit`; `resume` is the run to continue."""

    resume: str | None = option(None, "resume this run, started locally or durably", "RUN")


@dataclass(frozen=True, kw_only=True)
class ControlOptions(DurableOptions):
    """`control`; `number` is the new window."""

    action: str = argument("", None, choices=("pause", "resume", "drain", "window"))
    number: int | None = argument(
        None,
        "for `window`: concurrent chunks per shard, 1 to 200",
        "N",
        nargs="?",
        type=int,
        default=None,  # else argparse converts its own mark for "no default"
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions(WorkerPlanOptions, RequestOptions):
    """`schedule`."""

    action: str = "list"
    pipeline: str = argument("", "name of the pipeline, or an alias", "PIPELINE")
    overlap: str = option(
        "",
        "if the last run is still in progress: skip the new one, buffer one, or cancel the last "
        "(default: by `if_running`, else skip)",
        choices=("skip", "buffer_one", "cancel_other"),
    )
    catch_up: str = option(
        "",
        "catch up on runs missed within this time, e.g. 10m or 2h (default: by `catch_up`, else 5m)",
        "AGE",
    )
    json: bool = option(False, "print one JSON object per line")
