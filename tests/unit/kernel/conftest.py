"""Tests of the kernel fail when they leave an async generator open."""

from __future__ import annotations

import gc
from collections.abc import Generator
from types import AsyncGeneratorType

import pytest


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
