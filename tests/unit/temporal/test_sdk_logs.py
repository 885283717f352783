"""Logs of Temporal's SDK become one event each, without traceback and quoted records."""

from __future__ import annotations

import logging

import pytest
from temporalio.exceptions import ApplicationError

from engine.execution.events import RunEvent
from engine.temporal.logs import told_to

DETAILS = {"activity_type": "compile_plan", "attempt": 2, "workflow_id": "etl/blobs/blobs-1/s0"}


def told(error: Exception, **extra: object) -> list[RunEvent]:
    stages: list[RunEvent] = []
    with told_to(stages.append):
        try:
            raise error
        except Exception:
            logging.getLogger("temporalio.activity").warning("Completing", exc_info=True, extra=extra)
    return stages


def test_failed_activity_is_one_event_with_its_type() -> None:
    (stage,) = told(ApplicationError("no such pipeline", type="ConfigError"), temporal_activity=DETAILS)
    assert (stage.action, stage.level) == ("activity_failed", "warning")
    assert (stage.pipeline, stage.run_id, stage.numbers) == ("blobs", "blobs-1", {"attempt": 2})
    assert stage.message == "compile_plan: ConfigError: no such pipeline"


@pytest.mark.parametrize("extra", [{}, {"temporal_activity": DETAILS}])
def test_text_of_an_unexpected_error_is_omitted(extra: dict[str, object]) -> None:
    (stage,) = told(KeyError("a secret record"), **extra)
    assert "secret" not in stage.message
    assert "KeyError at " in stage.message


def test_nothing_is_told_any_more_when_the_worker_has_ended() -> None:
    stages: list[RunEvent] = []
    with told_to(stages.append):
        pass
    assert stages == []
    assert logging.getLogger("temporalio").propagate
    assert logging.getLogger("temporalio").handlers == []


AWAY = (
    "[sdk_core::temporalio_client::retry] gRPC call poll_activity_task_queue retried 7 times {'error': "
    "'Status { code: Unavailable, message: \\\"tcp connect error\\\", source: Some(...) }'}"
)


def test_a_server_that_does_not_answer_is_reported_once() -> None:
    stages: list[RunEvent] = []
    with told_to(stages.append):
        for _ in range(5):
            logging.getLogger("temporalio.core").warning(AWAY)
    (stage,) = stages
    assert (stage.action, stage.level) == ("server_away", "warning")
    assert stage.message.startswith("no answer from the Temporal server (tcp connect error): the worker ")


def test_a_failure_that_nobody_waited_for_is_told_by_its_activity_alone() -> None:
    stages: list[RunEvent] = []
    with told_to(stages.append):
        logging.getLogger("temporalio.workflow").error("Future exception was never retrieved\nfuture: x")
    assert stages == []
