"""One dev server for all tests here, started on first use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
