"""Error types that a scheduler can act on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine import errors
from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.contract.component import NoParams, Sink, Transform
from engine.execution.engine import Engine
from engine.execution.failure_types import (
    MAX_MESSAGE_BYTES,
    FailureType,
    TypedFailure,
    report_failure,
    typed_failure,
)
from engine.plan.model import Plan
from engine.state.records import RunStatus
from engine.temporal.messages import AWAY
from engine.testing import FaultySink, MemorySink, MemorySource, ScriptedClock, linear_plan

ONCE = NodeOptions(retry=RetryOptions(attempts=1, base=0.0, cap=0.0))


class Refusing(Transform):  # type: ignore[type-arg]
    """A transform that meets an error of its model endpoint."""

    def __init__(self, error: Exception) -> None:
        super().__init__(NoParams())
        self.error = error

    async def apply(self, batch: object) -> None:  # type: ignore[override]
        raise self.error


class Closed(MemorySource):
    """A source that cannot be opened."""

    def __init__(self, error: Exception) -> None:
        super().__init__([[1]])
        self.error = error

    async def __aenter__(self) -> Closed:
        raise self.error


async def failure_of(plan: Plan) -> TypedFailure:
    nodes = tuple(replace(node, options=ONCE) for node in plan.nodes)
    plan = replace(plan, nodes=nodes, settings=Settings(outage_limit=0.0))
    async with Engine(clock=ScriptedClock()) as engine:
        report = await engine.run(plan)
    failure = report_failure(report, plan)
    assert failure is not None
    return failure


def into(sink: Sink) -> Plan:  # type: ignore[type-arg]
    return linear_plan(MemorySource([[1]]), sink)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("auth", "AuthError"),
        ("schema", "SchemaError"),
        ("config", "ConfigError"),
        ("budget", "BudgetExceeded"),
    ],
)
async def test_failures_that_need_a_fix_are_not_retried(kind: errors.FatalKind, expected: str) -> None:
    failure = await failure_of(into(FaultySink([errors.FatalError("the token is wrong", kind=kind)])))
    assert (failure.type, failure.retryable) == (expected, False)
    assert "the token is wrong" in failure.message


async def test_an_outage_is_called_by_the_side_that_is_away() -> None:
    away = errors.TransientError("no service listens")
    sink = await failure_of(into(FaultySink([away] * 9)))
    assert (sink.type, sink.retryable) == ("SinkUnavailable", True)
    source = await failure_of(linear_plan(Closed(away), MemorySink()))
    assert (source.type, source.retryable) == ("SourceUnavailable", True)
    model = await failure_of(linear_plan(MemorySource([[1]]), Refusing(away), MemorySink()))
    assert (model.type, model.retryable) == ("Outage", True)


async def test_throttling_failure_carries_its_delay() -> None:
    busy = errors.TransientError("answered 429", retry_after=7.0)
    failure = await failure_of(linear_plan(MemorySource([[1]]), Refusing(busy), MemorySink()))
    assert (failure.type, failure.retryable, failure.retry_after) == ("ProviderThrottled", True, 7.0)


async def test_failure_tells_if_the_outage_limit_was_reached() -> None:
    away = errors.TransientError("no service listens")
    assert (await failure_of(into(FaultySink([away] * 9)))).outwaited
    assert not (await failure_of(into(FaultySink([KeyError("x")])))).outwaited
    assert not typed_failure(away).outwaited, "it was met outside of a run, and nobody has waited"


@pytest.mark.parametrize("throttled", [False, True])
@pytest.mark.parametrize("node", ["n0", "n1", "n2"])
def test_every_outage_is_of_a_type_that_shards_take_for_one(node: str, *, throttled: bool) -> None:
    plan = linear_plan(MemorySource([[1]]), Refusing(ValueError()), MemorySink())
    error = errors.OutageError("nothing got through", node=node)
    error.__cause__ = errors.TransientError("busy", retry_after=1.0 if throttled else None)
    assert typed_failure(error, plan).type in AWAY
    assert typed_failure(error, plan).retryable, "but for a chunk that has waited"


async def test_a_bug_is_tried_again_and_told_without_the_record() -> None:
    failure = await failure_of(into(FaultySink([KeyError("Jane Doe, 42")])))
    assert (failure.type, failure.retryable) == ("NodeFailed", True)
    assert "Jane Doe" not in failure.message


async def test_of_several_errors_of_one_node_the_gravest_counts() -> None:
    both = ExceptionGroup("tasks", [errors.TransientError("away"), errors.FatalError("no", kind="auth")])
    assert (await failure_of(linear_plan(Closed(both), MemorySink()))).type == "AuthError"


async def test_what_can_be_read_only_once_is_not_read_again() -> None:
    refused = errors.NodeFailedError("read", "it can be read only once")
    assert not typed_failure(refused).retryable


@pytest.mark.parametrize(
    ("error", "expected", "retryable"),
    [
        (errors.RunMismatchError("another plan"), "PlanMismatch", False),
        (errors.RunExistsError("another workflow's"), "RunExists", False),
        (errors.RunOverlapError("blobs", "blobs-1", "somebody"), "RunOverlap", False),
        (errors.ConfigError("no such key"), "ConfigError", False),
        (errors.RegistryError("no such sink"), "ConfigError", False),
        (errors.DeadLetterBudgetError("too many"), "DeadLetterBudget", False),
        (errors.StateCorruptError("damaged"), "StateCorrupt", False),
        (errors.StateFullError("no space"), "StateUnavailable", True),
        (errors.LeaseLostError("taken over"), "LeaseLost", True),
        (errors.LeaseHeldError("run", "host:1:x", "2026-01-01T00:00:00.000Z"), "LeaseHeld", True),
        (errors.PipelineTimeoutError("too long"), "Timeout", True),
        (errors.StalledError("no progress"), "Stalled", True),
        (errors.ServiceError("no sandbox"), "ServiceUnavailable", True),
        (errors.FatalError("no key", kind="auth"), "AuthError", False),
        (errors.EngineError("3 records are missing"), "InternalError", True),
        (ValueError("Jane Doe"), "InternalError", True),
    ],
)
def test_errors_outside_of_nodes(error: Exception, expected: str, retryable: bool) -> None:
    failure = typed_failure(error)
    assert (failure.type, failure.retryable) == (expected, retryable)
    assert "Jane" not in failure.message


def test_every_error_raised_on_purpose_has_a_type_of_its_own_meaning() -> None:
    """A new error is classified on purpose, and not by falling through."""
    undecided = {errors.EngineError, errors.RunError, errors.ComponentError}
    for name in errors.__all__:
        cls = getattr(errors, name)
        if isinstance(cls, type) and issubclass(cls, errors.EngineError) and cls not in undecided:
            made = cls.__new__(cls)
            made.node, made.kind, made.retry_after = "x", "config", None  # type: ignore[attr-defined]
            assert typed_failure(made).type is not FailureType.INTERNAL, name


def test_a_long_message_is_cut_between_two_characters() -> None:
    failure = typed_failure(errors.ConfigError("ü" * 5000))
    assert len(failure.message.encode()) <= MAX_MESSAGE_BYTES
    assert failure.message.endswith("ü…")


async def test_a_run_that_completed_or_was_drained_has_no_failure() -> None:
    async with Engine() as engine:
        report = await engine.run(into(MemorySink()))
    assert report_failure(report) is None
    assert report_failure(replace(report, status=RunStatus.INTERRUPTED)) is None
