"""Errors for schedulers: a type by name, and whether a retry may help.

Independent of any scheduler's library. The names are part of the contract, since retry policies and alarms
refer to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from engine import errors
from engine.contract.component import Kind
from engine.execution.report import RunReport
from engine.flow.errors import unwrap_group
from engine.plan.model import Plan
from engine.redaction import without_credentials

MAX_MESSAGE_BYTES: Final = 2048


class FailureType(StrEnum):
    """All failure types.

    `retryable` types may succeed when retried; the others fail again until the cause is fixed.
    """

    PLAN_MISMATCH = "PlanMismatch"
    RUN_EXISTS = "RunExists"
    RUN_OVERLAP = "RunOverlap"
    CONFIG = "ConfigError"
    AUTH = "AuthError"
    SCHEMA = "SchemaError"
    BUDGET = "BudgetExceeded"
    DEAD_LETTER_BUDGET = "DeadLetterBudget"
    INPUT_MISSING = "InputMissing"
    STATE_CORRUPT = "StateCorrupt"
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    PROVIDER_THROTTLED = "ProviderThrottled"
    SINK_UNAVAILABLE = "SinkUnavailable"
    OUTAGE = "Outage"
    STALLED = "Stalled"
    TIMEOUT = "Timeout"
    LEASE_HELD = "LeaseHeld"
    LEASE_LOST = "LeaseLost"
    STATE_UNAVAILABLE = "StateUnavailable"
    SERVICE_UNAVAILABLE = "ServiceUnavailable"
    NODE_FAILED = "NodeFailed"
    INTERNAL = "InternalError"

    @property
    def retryable(self) -> bool:
        """Whether a retry may help without a change."""
        return self not in _FINAL


_FINAL = frozenset(
    {
        FailureType.PLAN_MISMATCH,
        FailureType.RUN_EXISTS,
        FailureType.RUN_OVERLAP,
        FailureType.CONFIG,
        FailureType.AUTH,
        FailureType.SCHEMA,
        FailureType.BUDGET,
        FailureType.DEAD_LETTER_BUDGET,
        FailureType.INPUT_MISSING,
        FailureType.STATE_CORRUPT,
    }
)
_OF_FATAL = {
    "config": FailureType.CONFIG,
    "auth": FailureType.AUTH,
    "schema": FailureType.SCHEMA,
    "budget": FailureType.BUDGET,
}
# the first match counts, so subclasses precede their base
_OF_CLASS: tuple[tuple[type[BaseException], FailureType], ...] = (
    (errors.RunMismatchError, FailureType.PLAN_MISMATCH),
    (errors.RunExistsError, FailureType.RUN_EXISTS),
    (errors.RunOverlapError, FailureType.RUN_OVERLAP),
    (errors.ConfigError, FailureType.CONFIG),
    (errors.RegistryError, FailureType.CONFIG),
    (errors.RunNotFoundError, FailureType.CONFIG),
    (errors.LeaseHeldError, FailureType.LEASE_HELD),
    (errors.LeaseLostError, FailureType.LEASE_LOST),
    (errors.StateCorruptError, FailureType.STATE_CORRUPT),
    (errors.StateError, FailureType.STATE_UNAVAILABLE),
    (errors.ServiceError, FailureType.SERVICE_UNAVAILABLE),
    (errors.DeadLetterBudgetError, FailureType.DEAD_LETTER_BUDGET),
    (errors.InputMissingError, FailureType.INPUT_MISSING),
    (errors.PipelineTimeoutError, FailureType.TIMEOUT),
    (errors.StalledError, FailureType.STALLED),
)


@dataclass(frozen=True, slots=True)
class TypedFailure:
    """A failure as data.

    Args:
        type: its type.
        message: human-readable; at most `MAX_MESSAGE_BYTES` of UTF-8, never a record.
        retry_after: seconds that the service asked to wait, if any.
        outwaited: an outage lasted as long as `outage_limit`.
    """

    type: FailureType
    message: str
    retry_after: float | None = None
    outwaited: bool = False

    @property
    def retryable(self) -> bool:
        """Whether a retry may help without a change."""
        return self.type.retryable


def report_failure(report: RunReport, plan: Plan | None = None) -> TypedFailure | None:
    """Return the failure that ended a run early, or None without one (completed, drained or cancelled)."""
    return typed_failure(report.failure, plan) if report.failure is not None else None


def typed_failure(error: BaseException, plan: Plan | None = None) -> TypedFailure:
    """Return the failure for an error.

    Args:
        plan: used to find out whether the failed node is a source, a transform or a sink.
    """
    if isinstance(error, errors.OutageError | errors.NodeFailedError):
        cause = unwrap_group(error.__cause__) if isinstance(error.__cause__, Exception) else None
        wait = cause.retry_after if isinstance(cause, errors.TransientError) else None
        outwaited = isinstance(error, errors.OutageError)
        return TypedFailure(_of_node(error, cause, plan), _bounded(str(error)), wait, outwaited)
    if isinstance(error, errors.ComponentError):  # a component used without a run
        wait = error.retry_after if isinstance(error, errors.TransientError) else None
        return TypedFailure(_of_component(error, None), _bounded(str(error)), wait)
    for cls, kind in _OF_CLASS:
        if isinstance(error, cls):
            return TypedFailure(kind, _bounded(str(error)))
    if isinstance(error, errors.EngineError):
        return TypedFailure(FailureType.INTERNAL, _bounded(str(error)))
    # the text of an unplanned error may quote a record
    return TypedFailure(FailureType.INTERNAL, type(error).__name__)


def _of_node(
    error: errors.OutageError | errors.NodeFailedError, cause: Exception | None, plan: Plan | None
) -> FailureType:
    where = _kind_of(error.node, plan)
    if isinstance(cause, errors.ComponentError):
        return _of_component(cause, where)
    if isinstance(error, errors.OutageError):
        return _unavailable(where, throttled=False)
    if cause is None:
        # raised by the engine itself, e.g. for a second read of a source that can be read only once
        return FailureType.CONFIG
    return FailureType.NODE_FAILED


def _of_component(error: errors.ComponentError, where: Kind | None) -> FailureType:
    if isinstance(error, errors.FatalError):
        return _OF_FATAL[error.kind]
    if isinstance(error, errors.TransientError):
        return _unavailable(where, throttled=error.retry_after is not None)
    return FailureType.NODE_FAILED


def _unavailable(where: Kind | None, *, throttled: bool) -> FailureType:
    if where is Kind.SOURCE:
        return FailureType.SOURCE_UNAVAILABLE
    if where is Kind.SINK:
        return FailureType.SINK_UNAVAILABLE
    return FailureType.PROVIDER_THROTTLED if throttled else FailureType.OUTAGE


def _kind_of(node: str, plan: Plan | None) -> Kind | None:
    nodes = plan.every_node if plan is not None else ()
    return next((one.kind for one in nodes if one.name == node), None)


def _bounded(text: str) -> str:
    text = without_credentials(text)
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_MESSAGE_BYTES:
        return text
    return encoded[: MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"
