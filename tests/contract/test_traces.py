"""The detection of leftovers finds what it should."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.contract import traces
from tests.contract.traces import io_done, nothing_left


@asynccontextmanager
async def _task(_folder: Path) -> AsyncIterator[None]:
    task = asyncio.create_task(asyncio.Event().wait())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _socket(_folder: Path) -> AsyncIterator[None]:
    with socket.create_server(("127.0.0.1", 0)):
        yield


@asynccontextmanager
async def _file(folder: Path) -> AsyncIterator[None]:
    with (folder / "left.txt").open("w"):
        yield


async def _numbers() -> AsyncGenerator[int, None]:
    yield 1
    yield 2


@asynccontextmanager
async def _generator(_folder: Path) -> AsyncIterator[None]:
    numbers = _numbers()
    await anext(numbers)
    yield
    await numbers.aclose()


@pytest.mark.parametrize("trace", [_task, _socket, _file, _generator])
async def test_a_trace_is_found(
    trace: Callable[[Path], AsyncIterator[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "PATIENCE", 0.01)
    monkeypatch.setattr(traces, "OURS", (__file__,) if trace is _generator else ())  # type: ignore[comparison-overlap]
    left = trace(tmp_path)
    with pytest.raises(AssertionError, match="left"):
        async with nothing_left():
            await left.__aenter__()  # type: ignore[attr-defined]
    await left.__aexit__(None, None, None)  # type: ignore[attr-defined]


async def test_closed_resources_leave_no_trace(tmp_path: Path) -> None:
    async with nothing_left():
        for trace in (_task, _socket, _file, _generator):
            async with trace(tmp_path):
                pass


def test_reading_a_file_is_io(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with io_done() as seen:
        path.write_text("x")
    assert len(seen) == 1
    path.write_text("y")
    assert len(seen) == 1
