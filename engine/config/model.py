"""A checked file before components are looked up: the input of `engine.plan.compile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from engine.config.values import Place, Value
from engine.contract.component import BatchLimits, Kind
from engine.contract.types import JsonValue
from engine.errors import ConfigError, Problem
from engine.service.declared import Declared

SANDBOX = "sandbox"
"""The word for the embedded service, as a connection or as one of its fields."""

MEBIBYTE = 1 << 20


class OnStall(StrEnum):
    """What to do with a batch whose retries are exhausted while nothing succeeds at its node.

    `wait`: the source pauses for up to `outage_limit`. `dead_letter`: its records die at once.
    """

    WAIT = "wait"
    DEAD_LETTER = "dead_letter"


class OnError(StrEnum):
    """What to do with a record for which a node's own code fails unexpectedly.

    `stop`: the run ends. `dead_letter`: the record dies. `drop`: it is dropped, with the error's name as the
    reason.
    """

    STOP = "stop"
    DEAD_LETTER = "dead_letter"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class RetryOptions:
    """How transient failures of a node are retried: exponential backoff with full jitter.

    Args:
        attempts: total attempts, including the first; 1 means no retry.
        base: maximum seconds before the second attempt; doubles for each one after.
        cap: upper bound of every wait in seconds, except for a Retry-After from the service.
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Options of a node that the engine, not the component, uses.

    Args:
        retry: how transient failures are retried.
        concurrency: batches processed concurrently; None leaves it to the component.
        ordered: pass batches on in input order even when several are processed concurrently.
        batch: how batches are formed for this node; None leaves it to the component.
        on_stall: what to do when nothing succeeds any longer.
        on_error: what to do with a record that fails unplanned; None: functions stop the run, and transforms
            in YAML dead-letter the record.
        buffer: batches that may wait on each edge into this node; None leaves it to the engine.
        key_suffix: appended to the keys of all records that this node passes on ("" appends nothing); the
            only option that is part of the plan's identity.
    """

    retry: RetryOptions = field(default_factory=RetryOptions)
    concurrency: int | None = None
    ordered: bool = False
    batch: BatchLimits | None = None
    on_stall: OnStall = OnStall.WAIT
    on_error: OnError | None = None
    buffer: int | None = None
    key_suffix: str = ""


@dataclass(frozen=True, slots=True)
class Notify:
    """Where to post the result of a run, and which results. `url` may hold a secret."""

    url: str = field(repr=False)
    when: frozenset[str]


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a whole pipeline, none of which is part of the plan's identity.

    Args:
        memory_bytes: bytes in flight.
        outage_limit: seconds a source pauses while nothing succeeds, before the run stops.
        timeout: seconds the run may take; None means no limit.
        retries: how often a failed run is restarted.
        on_complete: pipelines to run after this one completed.
        on_cancel: pipelines to run after this one was cancelled.
        on_failure: pipelines to run after this one failed for good.
        notify: where to post the result of a run.
        schedule: five cron fields, a shorthand such as `@daily`, or an interval (`10m`, `@every 10m`); ""
            means none.
        time_zone: that of the schedule.
        catch_up: seconds that a scheduled run may begin late, after the service was down.
        min_records: a run that reads fewer records fails at its end.
        require_match: a run with a source that finds nothing to read fails at its end.
        if_running: what a run does while another run of the pipeline is in progress: refuse, wait, skip or
            allow; "" means refuse if a node leaves bookmarks, else allow.
        budget_usd: what a run may pay for answers, over all nodes and attempts; None means no limit.
        budget_usd_per_day: what all runs of the pipeline may pay in a day, UTC; None means no limit.
    """

    memory_bytes: int = 64 * MEBIBYTE
    outage_limit: float = 600.0
    timeout: float | None = None
    retries: int = 0
    on_complete: tuple[str, ...] = ()
    on_cancel: tuple[str, ...] = ()
    schedule: str = ""
    min_records: int = 0
    require_match: bool = False
    if_running: str = ""
    on_failure: tuple[str, ...] = ()
    notify: Notify | None = None
    time_zone: str = "UTC"
    catch_up: float = 300.0
    budget_usd: float | None = None
    budget_usd_per_day: float | None = None

    @property
    def followers(self) -> tuple[str, ...]:
        """Return all pipelines that may follow this one."""
        return (*self.on_complete, *self.on_cancel, *self.on_failure)


class ParamType(StrEnum):
    """The types of a run parameter."""

    STRING = "string"
    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    LIST = "list"
    MAPPING = "mapping"


@dataclass(frozen=True, slots=True)
class ParameterConfig:
    """A declared run parameter of a pipeline.

    `nullable`: null is allowed, because the default is null. `required`: there is no default.
    """

    name: str
    type: ParamType
    default: Value | None = None
    required: bool = False
    nullable: bool = False
    choices: tuple[JsonValue, ...] = ()
    description: str = ""
    place: Place = field(default_factory=Place, compare=False)


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """An entry of `connections:`.

    `fields` is a mapping of values, empty when the whole connection is the word `sandbox`.
    """

    name: str
    fields: Value
    sandbox: bool = False
    place: Place = field(default_factory=Place, compare=False)


@dataclass(frozen=True, slots=True)
class InputConfig:
    """An input of a node, with its place in the file: a node, or one branch of a router."""

    name: str
    place: Place = field(default_factory=Place, compare=False)
    branch: str = ""

    @property
    def text(self) -> str:
        """Return the input as it is written in the file."""
        return f"{self.name}.{self.branch}" if self.branch else self.name


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node of the file; `arguments` is the mapping under `with:`."""

    name: str
    kind: Kind
    component: str
    arguments: Value
    inputs: tuple[InputConfig, ...] = ()
    options: NodeOptions = field(default_factory=NodeOptions)
    place: Place = field(default_factory=Place, compare=False)
    component_place: Place = field(default_factory=Place, compare=False)


@dataclass(frozen=True, slots=True)
class DeadLetterConfig:
    """The limit of dead letters, and where they are forwarded.

    At most one of `max_count` (records) and `max_share` (0 to 1) is set; neither means the default.
    """

    max_count: int | None = None
    max_share: float | None = None
    forward: NodeConfig | None = None


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """A pipeline with its parameters resolved.

    Attributes:
        parameters: as declared.
        values: the values in effect, JSON-safe; parameters whose value came from the environment or a
            file are left out, since they may be secret and are available again when a run is resumed.
        nodes: in the order of the file.
        unreadable: names of nodes that are invalid or have an invalid input.
    """

    name: str
    nodes: tuple[NodeConfig, ...]
    parameters: Mapping[str, ParameterConfig] = field(default_factory=lambda: MappingProxyType({}))
    values: Mapping[str, JsonValue] = field(default_factory=lambda: MappingProxyType({}))
    dead_letters: DeadLetterConfig = field(default_factory=DeadLetterConfig)
    settings: Settings = field(default_factory=Settings)
    unreadable: frozenset[str] = frozenset()
    place: Place = field(default_factory=Place, compare=False)


@dataclass(frozen=True, slots=True)
class ExternalValue:
    """A value that the file takes from the environment or from another file.

    Args:
        name: the variable, or `file:path`.
        is_set: it exists; otherwise a default applies, or a problem was reported.
        dotenv: it came from the `.env` file.
    """

    name: str
    place: Place
    is_set: bool
    dotenv: bool = False


@dataclass(frozen=True, slots=True)
class FileConfig:
    """A file.

    Attributes:
        file: the file's name in messages; "" for a mapping.
        problems: problems found so far. `compile_plan` and `compile_file` raise these together with their
            own, so that the user sees everything at once.
        aliases: other names of pipelines, each with the pipeline's own.
        external: values that were read or looked up outside of the file, in the order of requests.
        warehouse: the models that it declares, None without any.
    """

    file: str = ""
    version: int = 1
    connections: Mapping[str, ConnectionConfig] = field(default_factory=lambda: MappingProxyType({}))
    pipelines: Mapping[str, PipelineConfig] = field(default_factory=lambda: MappingProxyType({}))
    aliases: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[Problem, ...] = ()
    external: tuple[ExternalValue, ...] = ()
    warehouse: Declared | None = None

    def resolve_alias(self, name: str) -> str:
        """Return the pipeline that `name` is an alias of, or `name` itself."""
        return self.aliases.get(name, name)

    def check(self) -> None:
        """Raise the problems found so far.

        Raises:
            ConfigError: with all of `problems`.
        """
        if self.problems:
            raise ConfigError(self.problems)
