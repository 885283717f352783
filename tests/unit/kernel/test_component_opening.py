"""Components are closed at the end, and after a failure to open."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from engine.contract.component import Component, Params
from engine.errors import TransientError

pytestmark = pytest.mark.anyio


class Opening(Component[Params]):
    """Opens two things; the second may be away."""

    def __init__(self, *, away: bool) -> None:
        super().__init__(Params())
        self.away = away
        self.closed: list[str] = []

    async def open(self, stack: AsyncExitStack) -> None:
        stack.callback(self.closed.append, "first")
        if self.away:
            raise TransientError("away")
        stack.callback(self.closed.append, "second")


async def test_a_component_closes_what_it_has_opened_backwards() -> None:
    async with Opening(away=False) as component:
        assert component.closed == []
    assert component.closed == ["second", "first"]


async def test_a_component_that_cannot_be_opened_leaves_nothing_open() -> None:
    component = Opening(away=True)
    with pytest.raises(TransientError):
        await component.__aenter__()
    assert component.closed == ["first"]
