"""Tests marked `anyio` run on both of anyio's backends, and fail when an async generator is left open."""

from __future__ import annotations

import gc
from collections.abc import Generator
from types import AsyncGeneratorType

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


def _open_generators() -> list[str]:
    """Names of the async generators that have begun and neither ended nor been closed."""
    return [
        one.__qualname__
        for one in gc.get_objects()
        if type(one) is AsyncGeneratorType and one.ag_frame is not None and one.ag_frame.f_lasti > 0
    ]


@pytest.fixture(autouse=True)
def _no_open_generator() -> Generator[None]:
    before = _open_generators()
    yield
    after = _open_generators()
    for name in before:
        if name in after:
            after.remove(name)
    # the runner of the test itself is one of anyio's
    assert [name for name in after if "pytest" not in name and "_run_tests" not in name] == []
