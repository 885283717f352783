"""Lets the tests of this directory marked `anyio` run on both of anyio's backends."""

from __future__ import annotations

from collections.abc import Generator

import pytest

Collected = pytest.Item | pytest.Collector | list[pytest.Item | pytest.Collector] | None


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend that a test marked `anyio` runs on."""
    return str(request.param)


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
