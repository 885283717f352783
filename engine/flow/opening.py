"""Open and close components, with errors that carry the node's name."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from engine.contract.component import Component
from engine.contract.unplanned import escaped
from engine.flow.errors import as_run_error


@asynccontextmanager
async def closing_by_name(node: str, component: Component[Any]) -> AsyncGenerator[Component[Any], None]:
    """Open a component; errors when closing it carry the node's name."""
    await component.__aenter__()
    try:
        yield component
    except BaseException as error:
        await _leave(node, component, error)
        raise
    await _leave(node, component, None)


async def _leave(node: str, component: Component[Any], error: BaseException | None) -> None:
    try:
        kind = type(error) if error is not None else None
        await component.__aexit__(kind, error, error.__traceback__ if error is not None else None)
    except BaseException as raised:  # noqa: BLE001 - a component's own code ends here; `escaped` decides
        problem = escaped(raised)
        if error is None:
            raise as_run_error(node, problem) from problem
        error.add_note(f"and node {node!r} failed to close: {type(problem).__name__}")
