"""The place of the state in these tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.series import few

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres


@pytest.fixture(params=few(["sqlite", "postgres"], 1))
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place where no state has been kept yet, as `open_store` takes it."""
    if request.param == "sqlite":
        return str(tmp_path / "state")
    server: Postgres = request.getfixturevalue("postgres")
    server.drop()
    return server.address()


@pytest.fixture(params=few(["asyncio", "trio"], 1))
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend of a test marked `anyio`; the store's logic runs on both in the contract suite."""
    return str(request.param)
