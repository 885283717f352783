"""Every error the engine raises on purpose.

::

    EngineError                      base of all errors below
    ├── ConfigError                  the file, its parameters or environment are wrong (all problems at once)
    ├── RegistryError                no component of that name, or its extra is not installed
    ├── StateError                   the state store cannot be used
    │   ├── StateCorruptError        it exists but cannot be read
    │   ├── StateReadOnlyError       it cannot be written
    │   ├── StateFullError           no space is left
    │   ├── StateVersionError        it was written by a newer engine
    │   ├── StateMissingError        nothing has run with it yet
    │   ├── RunOverlapError          another run of the pipeline is in progress
    │   ├── LeaseHeldError           another process is working on the run
    │   ├── LeaseLostError           another process has taken the run over
    │   ├── RunNotFoundError         it has no such run
    │   └── RunMismatchError         the run there was made from another plan
    ├── ServiceError                 an embedded service could not start or stopped
    ├── RunError                     a run ended early
    │   ├── OutageError              nothing succeeded for `outage_limit`; the run can be resumed
    │   ├── DeadLetterBudgetError    more records died than the pipeline allows
    │   ├── InputMissingError        the run read less than the pipeline requires
    │   ├── NodeFailedError          a node failed, neither temporarily nor because of a record
    │   ├── PipelineTimeoutError     the pipeline's `timeout` passed
    │   └── StalledError             no progress and no error for too long
    └── ComponentError               raised by sources, transforms and sinks
        ├── TransientError           try again: time-outs, 429, 5xx, broken connections
        ├── RecordError              this record can never be delivered: it becomes a dead letter
        ├── BatchError               some records of a batch failed, each with one of the two above
        └── FatalError               the run must stop: bad credentials, unknown model, a wrong endpoint

Any other exception from a component counts as a bug in it and stops the run with `NodeFailedError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = [
    "AT_RECORD",
    "BatchError",
    "ComponentError",
    "ConfigError",
    "DeadLetterBudgetError",
    "EngineError",
    "FatalError",
    "FatalKind",
    "InputMissingError",
    "LeaseHeldError",
    "LeaseLostError",
    "NodeFailedError",
    "OutageError",
    "PipelineTimeoutError",
    "Problem",
    "RecordError",
    "RegistryError",
    "RunError",
    "RunMismatchError",
    "RunNotFoundError",
    "RunOverlapError",
    "ServiceError",
    "StalledError",
    "StateCorruptError",
    "StateError",
    "StateFullError",
    "StateMissingError",
    "StateReadOnlyError",
    "StateVersionError",
    "TransientError",
]

AT_RECORD: Final = "at "
"""The start of the note that names the record which caused an unplanned error."""


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem in a configuration.

    `line` and `column` count from 1, 0 means unknown; `path` is the place in the document
    (`pipelines.blobs.nodes.load`), "" for the document as a whole.
    """

    message: str
    path: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""

    def __str__(self) -> str:
        where = self.file
        if self.line:
            where += f":{self.line}:{self.column}"
        parts = [part for part in (where, self.path) if part]
        text = ": ".join([*parts, self.message])
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(EngineError):
    """The file, its parameters or environment are invalid; `problems` lists all in file order."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        if isinstance(problems, str):
            problems = [Problem(problems)]
        self.problems: tuple[Problem, ...] = tuple(
            sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RegistryError(EngineError):
    """A component does not exist, or a dependency of it is not installed."""


class StateError(EngineError):
    """The state store cannot be used."""


class StateCorruptError(StateError):
    """The state store exists but cannot be read."""


class StateReadOnlyError(StateError):
    """The state store cannot be written."""


class StateFullError(StateError):
    """The disk of the state store is full."""


class StateVersionError(StateError):
    """The state store was written by a newer engine."""


class StateMissingError(StateError):
    """The state store does not exist: nothing has run with it yet."""


class LeaseHeldError(StateError):
    """Another process is working on the run.

    `holder` is that process (`host:process id:random`), `expires_at` the end of its lease (UTC, ISO 8601),
    which it renews.
    """

    def __init__(self, run_id: str, holder: str, expires_at: str) -> None:
        self.run_id = run_id
        self.holder = holder
        self.expires_at = expires_at
        super().__init__(
            f"process {holder} is working on run {run_id!r} (lease until {expires_at}, renewed while it "
            "works): let it finish, or stop it"
        )


class RunOverlapError(StateError):
    """Another run of the pipeline is in progress, and the pipeline does not allow two.

    `run_id` and `holder` are those of the other run. `skipped`: the pipeline skips this run; `given_up`: this
    run was stopped while waiting for the other one.
    """

    def __init__(
        self, pipeline: str, run_id: str, holder: str, *, skipped: bool = False, given_up: bool = False
    ) -> None:
        self.run_id = run_id
        self.holder = holder
        self.skipped = skipped
        self.given_up = given_up
        remedy = "let it finish or stop it, or set `if_running: wait`, `skip` or `allow`"
        if skipped or given_up:
            remedy = "this run was skipped" if skipped else "this run was stopped while waiting for it"
        super().__init__(f"{pipeline!r} is already running: run {run_id} by {holder}; {remedy}")


class LeaseLostError(StateError):
    """Another process took over the run; further writes of this one are rejected."""


class RunNotFoundError(StateError):
    """The state store has no such run."""


class RunExistsError(StateError):
    """The state store already has a run with that id, started by another process."""


class RunMismatchError(StateError):
    """The run in the state store was started with a different plan."""


class ServiceError(EngineError):
    """An embedded service could not be started, or stopped before its user did."""


class RunError(EngineError):
    """A run ended early; acknowledged records stay acknowledged."""


class OutageError(RunError):
    """Nothing succeeded at a node for longer than `outage_limit`; the run can be resumed.

    `node` is its name; `__cause__` has the last `TransientError`.
    """

    def __init__(self, message: str, *, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class DeadLetterBudgetError(RunError):
    """More records died than the pipeline allows."""


class InputMissingError(RunError):
    """A run read less than its pipeline requires."""


class NodeFailedError(RunError):
    """A node failed, neither temporarily nor because of a record; `__cause__` has the error."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(f"node {node!r} failed: {message}")
        self.node = node


class PipelineTimeoutError(RunError):
    """The pipeline ran longer than its `timeout`; the run can be resumed."""


class StalledError(RunError):
    """No progress for too long, without a failure; the run can be resumed."""


class ComponentError(EngineError):
    """Base of errors that sources, transforms and sinks raise on purpose."""


class TransientError(ComponentError):
    """A failure that a retry may fix.

    `retry_after`: seconds that the service asked to wait, if any. `throttled`: the service is only
    overloaded, so the records are not at fault; `retry_after` implies it.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, throttled: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.throttled = throttled or retry_after is not None


class StoppingError(TransientError):
    """The run is stopping, and this record would take longer than the run may wait.

    The record is neither retried nor dead: it stays unsettled, so a resume reads it again.
    """


class RecordError(ComponentError):
    """The record can never be delivered; it becomes a dead letter, and its batch continues.

    `kind` is the error type that the dead letter shows (default: the class name of the cause, else
    "RecordError"). `stage` names where it died, if not in the node itself: "service" is the receiver of a
    sink, which then has its own dead letter. `unplanned`: no code raised it on purpose (an expression cannot
    be computed, a function has a bug), so the node's `on_error` decides.
    """

    def __init__(
        self, message: str, *, kind: str = "RecordError", stage: str = "", unplanned: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.stage = stage
        self.unplanned = unplanned


FatalKind: TypeAlias = Literal["config", "auth", "schema", "budget"]


class FatalError(ComponentError):
    """The run must stop: wrong credentials, an unknown model, an invalid endpoint.

    `kind` is what has to be fixed: the configuration, the credentials (`auth`), the record format (`schema`),
    or the spending limit (`budget`).
    """

    def __init__(self, message: str, *, kind: FatalKind = "config") -> None:
        super().__init__(message)
        self.kind = kind


class BatchError(ComponentError):
    """Some records of a batch failed; the others succeeded.

    `failures` maps the index in the batch to that record's `RecordError` or `TransientError`. `confirmed`
    applies to the others, as in a sink's `Receipt`.
    """

    def __init__(
        self, failures: Mapping[int, RecordError | TransientError], *, confirmed: bool = True
    ) -> None:
        if not isinstance(failures, Mapping):
            raise TypeError(
                "engine.BatchError: `failures` must be a mapping from an index of the batch to its error, "
                f"got a {type(failures).__name__}"
            )
        self.failures = dict(failures)
        self.confirmed = confirmed
        first = next(iter(self.failures.values()), None)
        super().__init__(f"{len(self.failures)} records failed, the first with: {first}")
