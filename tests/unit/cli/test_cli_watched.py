"""Watching a durable run, with unexpected answers from the server."""

from __future__ import annotations

import shlex
from typing import Any, cast

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.exceptions import TerminatedError
from temporalio.service import RPCError, RPCStatusCode

from engine.cli.durable import watched_run as watched
from engine.cli.durable.options import DurableOptions
from engine.cli.durable.server import command
from engine.cli.durable.watched_run import Watched
from engine.errors import ServiceError
from engine.state import RunStatus, StateStore
from engine.state.memory import MemoryStateStore
from engine.temporal.starting import Handle


class Unanswered:
    """A workflow whose workers cannot tell how far it is."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.queries = 0

    async def query(self, query: Any) -> Any:
        self.queries += 1
        raise self.error


class Looking(Watched):
    """A run that has ended when it is looked at for the third time."""

    looks = 0

    async def look(self, store: StateStore) -> bool:
        self.looks += 1
        return self.looks == 3


@pytest.mark.parametrize(
    "error",
    [WorkflowQueryFailedError("workflow cannot be replayed"), RPCError("later", RPCStatusCode.UNKNOWN, b"")],
    ids=["failed", "not answered"],
)
async def test_run_is_watched_even_if_workers_cannot_report(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_EVERY", 0.0)
    workflow = Unanswered(error)
    run = Looking(cast(Client, None), cast(Handle, workflow), "blobs-20260131T120000-4f2a1b")
    async with MemoryStateStore() as store:
        await run.until_ended(store)
    assert workflow.queries == 2


def test_a_command_to_be_copied_has_its_arguments_as_they_were_given() -> None:
    options = DurableOptions(
        wait=True, file="my file.yaml", state_dir="a state", namespace="two words", queue="it's"
    )
    assert shlex.split(command("submit", "r", options))[-10:] == [
        *("submit", "my file.yaml", "--resume", "r", "--state-dir", "a state"),
        *("--namespace", "two words", "--queue", "it's"),
    ]


class Gone:
    """A workflow that has ended on a server that does not say how."""

    async def result(self) -> Any:
        raise RPCError("no connection", RPCStatusCode.UNAVAILABLE, b"")


async def test_how_a_run_has_ended_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "OUTCOME_WITHIN", 0.01)
    monkeypatch.setattr(watched, "LOOK_EVERY", 0.001)
    run = Watched(cast(Client, None), cast(Handle, Gone()), "blobs-20260131T120000-4f2a1b")
    async with MemoryStateStore() as store:
        with pytest.raises(ServiceError, match="has ended, but the Temporal server no longer answers"):
            await run.conclude(store)


class Refused:
    """A workflow that may not be looked at."""

    async def describe(self) -> Any:
        raise RPCError("token expired", RPCStatusCode.PERMISSION_DENIED, b"")


async def test_refusal_differs_from_a_server_without_answer() -> None:
    run = Watched(cast(Client, None), cast(Handle, Refused()), "blobs-20260131T120000-4f2a1b")
    async with MemoryStateStore() as store:
        with pytest.raises(ServiceError, match=r"PERMISSION_DENIED.*TEMPORAL_API_KEY"):
            await run.until_ended(store)


class Terminated:
    """A workflow that an operator ended on the server."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    async def result(self) -> Any:
        raise WorkflowFailureError(cause=TerminatedError(self.reason))


@pytest.mark.parametrize(("reason", "shown"), [("for maintenance", ": for maintenance"), ("", "")])
async def test_a_terminated_workflow_is_named(reason: str, shown: str) -> None:
    run = Watched(cast(Client, None), cast(Handle, Terminated(reason)), "blobs-20260131T120000-4f2a1b")
    assert (await run._outcome())[:2] == (RunStatus.FAILED, f"its workflow was terminated{shown}")
