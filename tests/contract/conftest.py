"""The world that components are tried in; and tests marked `anyio` run on both of anyio's backends."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from component_cases import Case, SourceCase
from outside_world import World, beside, fill, lake

Collected = pytest.Item | pytest.Collector | list[pytest.Item | pytest.Collector] | None


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend that a test marked `anyio` runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def _lake() -> Iterator[str]:
    with lake() as address:  # it takes half a second to stop
        yield address


@pytest.fixture(scope="session")
def _portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    _lake: str,
    _portal: BlockingPortal,
) -> Iterator[World]:
    """What the `case` of the test needs, running."""
    case: Case = request.node.callspec.params["case"]
    said = bytearray()

    def printed() -> bytes:
        said.extend(capsysbinary.readouterr().out)
        return bytes(said)

    made = World(tmp_path, printed)
    if not case.needs:
        yield made
    elif isinstance(case, SourceCase):
        made.s3 = _lake
        fill(made.s3, case.objects)
        yield made
    else:
        with beside(_portal, case.needs, tmp_path) as address:
            made.llm = made.ingest = address
            yield made


@pytest.fixture
def nowhere(tmp_path: Path) -> World:
    """Addresses at which nothing runs, for what must not go there anyway."""
    address = "http://127.0.0.1:9"
    return World(tmp_path, bytes, address, address, address)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem() -> Generator[None, Collected, Collected]:
    """Hand tests marked `anyio` to anyio's plugin alone.

    In its auto mode pytest-asyncio takes every coroutine for itself, so that a test named `[trio]` would
    silently run on asyncio. A plain item in the place of pytest-asyncio's is left to anyio.
    """
    collected = yield
    if not isinstance(collected, list):
        return collected
    return [
        _plain(item) if isinstance(item, pytest.Function) and item.get_closest_marker("anyio") else item
        for item in collected
    ]


def _plain(item: pytest.Function) -> pytest.Function:
    plain: pytest.Function = pytest.Function.from_parent(
        item.parent,
        name=item.name,
        callspec=getattr(item, "callspec", None),
        callobj=item.obj,
        fixtureinfo=item._fixtureinfo,
        originalname=item.originalname,
    )
    return plain
