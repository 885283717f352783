"""One dev server for all tests here, started on first use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from temporalio.worker import _workflow

from tests.servers.temporal import DevServer, running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    # workers ask for eager starts as they do elsewhere; this server grants them only when told to
    dynamic = {"system.enableActivityEagerExecution": "true"}
    with running(tmp_path_factory.mktemp("temporal"), dynamic=dynamic) as started:
        yield started


@pytest.fixture(autouse=True)
def _server_before_what_is_left_behind_is_counted(server: DevServer) -> None:
    """The server outlives each test; it has to be there before the first one is looked at."""


@pytest.fixture(autouse=True)
def _workflows_wait_for_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK interrupts a workflow after two seconds without one, and may then wait for it for ever."""
    usual = _workflow._WorkflowWorker.__init__

    def begin(self: Any, **options: Any) -> None:
        usual(self, **options)
        self._deadlock_timeout_seconds = None

    monkeypatch.setattr(_workflow._WorkflowWorker, "__init__", begin)
