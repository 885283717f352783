"""The sections of the file as Pydantic models.

`load` and the editor's schema use them. `with:` is unchecked here; the component's own model checks it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    field_validator,
)

from engine.config.cron import check_schedule, check_time_zone
from engine.config.model import NodeOptions, Notify, OnError, OnStall, RetryOptions, Settings
from engine.contract.component import BatchLimits
from engine.service.declared import WarehouseSection
from engine.units import Duration, Limit, Size, Timeout

_NAMES_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def _names(value: Any) -> Any:
    """Return one name or a list of names as a list."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("expected a name or a list of names")


Names = Annotated[list[str], BeforeValidator(_names), WithJsonSchema(_NAMES_SCHEMA)]
Schedule = Annotated[str, AfterValidator(check_schedule)]
TimeZone = Annotated[str, AfterValidator(check_time_zone)]


class Section(BaseModel):
    """Base of the sections; unknown keys are problems."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class RetrySection(Section):
    """How transient failures are retried."""

    attempts: int = Field(default=5, ge=1, le=1000)
    """Total number of attempts, including the first."""
    base: Duration = 0.5
    """Maximum wait before the second attempt; doubles for each one after."""
    cap: Duration = 30.0
    """Upper bound of every wait."""

    def options(self) -> RetryOptions:
        """Return the options for the engine."""
        return RetryOptions(self.attempts, self.base, self.cap)


class BatchSection(Section):
    """When a batch for this node is full."""

    records: int = Field(default=0, ge=0, le=1_000_000)
    """Maximum records of a batch; 0 means no limit."""
    bytes: Size = 0
    """Maximum estimated size of a batch; 0 means no limit."""
    linger: Duration = 0.2
    """Maximum time before a batch is passed on, full or not."""


class NodeSection(Section):
    """A node: one of `source`, `transform` or `sink` names its component."""

    source: str | None = None
    """The source component that records come from."""
    transform: str | None = None
    """The transform component that changes records."""
    sink: str | None = None
    """The sink component that writes records."""
    filter_: Any = Field(default=None, alias="filter")
    """Short for `transform: filter`."""
    map_: Any = Field(default=None, alias="map")
    """Short for `transform: map`."""
    route: Any = None
    """Short for `transform: route`."""
    explode: Any = None
    """Short for `transform: explode`."""
    deduplicate: Any = None
    """Short for `transform: deduplicate`."""
    validate_: Any = Field(default=None, alias="validate")
    """Short for `transform: validate`."""
    mask: Any = None
    """Short for `transform: mask`."""
    sql: Any = None
    """Short for `transform: sql`."""
    enrich: Any = None
    """Short for `transform: enrich`."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """The component's parameters, and `connection`."""
    input: Names | None = None
    """The node or nodes to take records from, a branch of a router as `node.branch`. Default: the node
    above."""
    key_suffix: str = Field(default="", max_length=64)
    """Appended to record keys, so that two branches of one source can be merged."""
    retry: RetrySection = RetrySection()
    """How transient failures are retried."""
    concurrency: int | None = Field(default=None, ge=1, le=1024)
    """Batches processed concurrently. Default: the component's own."""
    ordered: bool = False
    """Pass batches on in input order even when several are processed concurrently."""
    batch: BatchSection | None = None
    """How batches are formed for this node. Default: the component's own."""
    on_stall: Literal["wait", "dead_letter"] = "wait"
    """When retries are exhausted and nothing succeeds: wait for the service, or dead-letter the records."""
    on_error: Literal["stop", "dead_letter", "drop"] | None = None
    """When the node's own code or an expression fails for a record: stop the run, dead-letter the record, or
    drop it. Default: functions stop the run, transforms in YAML dead-letter the record."""
    buffer: int | None = Field(default=None, ge=1, le=1024)
    """Capacity of each edge into this node, in batches. Default: the engine's own."""

    def options(self) -> NodeOptions:
        """Return the engine's options for this node."""
        batch = self.batch
        return NodeOptions(
            retry=self.retry.options(),
            concurrency=self.concurrency,
            ordered=self.ordered,
            batch=BatchLimits(batch.records, batch.bytes, batch.linger) if batch else None,
            on_stall=OnStall(self.on_stall),
            on_error=OnError(self.on_error) if self.on_error else None,
            buffer=self.buffer,
            key_suffix=self.key_suffix,
        )


class ForwardSection(Section):
    """A sink for dead letters."""

    sink: str
    """The sink component."""
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    """Its parameters, and `connection`."""
    retry: RetrySection = RetrySection()
    """How transient failures are retried."""


class DeadLetterSection(Section):
    """The limit of dead letters and their forwarding."""

    max: Limit | None = None
    """Stop the run when more records die: a number, or a share such as 20% (default: 60%)."""
    forward: dict[str, Any] | None = None
    """A sink that receives a copy of every dead letter."""


class ParameterSection(Section):
    """A run parameter, spelled out."""

    type: str | None = None
    """string, int, float, bool, list or mapping. Default: the type of `default`."""
    default: Any = None
    """Its default value; null makes the parameter nullable."""
    required: bool = False
    """Require a value from --param; there is no default."""
    choices: list[Any] = []
    """The only values allowed."""
    description: str = ""
    """What it does."""


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid IPv6 address in brackets, or an invalid port
        return False


class NotifySection(Section):
    """Where to post the result of a run."""

    url: str = ""
    """An http or https address; empty: nowhere."""
    when: list[Literal["completed", "failed", "outage", "interrupted"]] = ["failed", "outage"]
    """The results to report (default: failed and outage)."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        if url and not _is_http(url):
            raise ValueError("expected an address such as https://HOST/PATH, with http:// or https://")
        return url

    def settings(self) -> Notify | None:
        """Return the settings as a value; None without an address."""
        return Notify(self.url, frozenset(self.when)) if self.url else None


class PipelineSection(Section):
    """A pipeline."""

    params: dict[str, Any] = {}
    """Run parameters: `name: default`, or spelled out."""
    nodes: dict[str, Any] = {}
    """The nodes in order; each takes its records from the one above unless it says otherwise."""
    dead_letters: dict[str, Any] = {}
    """The budget of dead letters and where they are forwarded."""
    schedule: Schedule = ""
    """Five cron fields, a shorthand such as @daily, or `@every 10m`; in UTC."""
    time_zone: TimeZone = "UTC"
    """The time zone of `schedule`, such as Europe/Berlin."""
    catch_up: Duration = Field(default=300.0, ge=0)
    """How late a scheduled run may start after the service was down."""
    timeout: Timeout = None
    """Time limit of a run; null or never: no limit."""
    retries: int = Field(default=0, ge=0, le=1000)
    """How many times a failed run is retried."""
    on_complete: Names = []
    """Pipelines to run after this one completed."""
    on_cancel: Names = []
    """Pipelines to run after this one was cancelled."""
    on_failure: Names = []
    """Pipelines to run after this one failed, once its retries are exhausted."""
    notify: NotifySection | None = None
    """Post the result of a run, with its counts, to an address."""
    memory: Size = Field(default=64 << 20, ge=1 << 20)
    """Bytes in flight."""
    outage_limit: Duration = 600.0
    """Stop the run when a service has been unavailable for this long."""
    min_records: int = Field(default=0, ge=0)
    """Fail a run that reads fewer records than this."""
    require_match: bool = False
    """Fail a run with a source that finds nothing to read."""
    budget_usd: float | None = Field(default=None, gt=0)
    """Stop a run (it can be resumed) before its nodes together pay more than this."""
    budget_usd_per_day: float | None = Field(default=None, gt=0)
    """Stop a run before all runs of the pipeline together pay more than this in a day (UTC)."""
    if_running: Literal["refuse", "wait", "skip", "allow"] | None = None
    """While another run of the pipeline is in progress: refuse to start, wait for its end, skip this run, or
    allow both. Default: refuse if a node remembers earlier runs (`mode: changed`), otherwise allow."""
    description: str = ""
    """What the pipeline does."""

    def settings(self) -> Settings:
        """Return the settings of the pipeline as a whole."""
        return Settings(
            memory_bytes=self.memory,
            outage_limit=self.outage_limit,
            timeout=self.timeout,
            retries=self.retries,
            on_complete=tuple(self.on_complete),
            on_cancel=tuple(self.on_cancel),
            on_failure=tuple(self.on_failure),
            notify=self.notify.settings() if self.notify is not None else None,
            schedule=self.schedule,
            time_zone=self.time_zone,
            catch_up=self.catch_up,
            min_records=self.min_records,
            require_match=self.require_match,
            if_running=self.if_running or "",
            budget_usd=self.budget_usd,
            budget_usd_per_day=self.budget_usd_per_day,
        )


class FileSection(Section):
    """The file."""

    version: int = 1
    """The version of the format; only 1 exists (default: 1)."""
    connections: dict[str, Any] = {}
    """External services by name, each with its fields, or `sandbox` for the embedded service."""
    pipelines: dict[str, Any] = {}
    """Pipelines by name."""
    aliases: dict[str, str] = {}
    """Other names of pipelines, each as `alias: pipeline`."""
    warehouse: WarehouseSection = WarehouseSection()
    """Custom models of the embedded warehouse and of `serve`."""
