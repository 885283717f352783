"""The leak guard of the tests: leftovers fail a test."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import anyio
import pytest

from tests.leaks import no_open_generator, with_addresses

pytest_plugins = ("pytester",)

KEPT: list[AsyncGenerator[int]] = []

LEAKY = """\
import pytest
from contextlib import aclosing
from tests.conftest import *
from tests.conftest import _nothing_left_behind

kept = []

async def numbers():
    yield 1
    yield 2

@pytest.fixture
async def begun():
    async with aclosing(numbers()) as made:
        yield await anext(made)

@pytest.mark.anyio
async def test_dropped():
    await anext(numbers())

@pytest.mark.anyio
async def test_kept():
    kept.append(numbers())
    await anext(kept[-1])

@pytest.mark.anyio
async def test_closed(begun):
    async with aclosing(numbers()) as made:
        await anext(made)

async def test_dropped_on_asyncio():
    await anext(numbers())
"""


async def numbers() -> AsyncGenerator[int]:
    yield 1
    yield 2


async def drop() -> None:
    await anext(numbers())


async def keep() -> None:
    KEPT.append(numbers())
    await anext(KEPT[-1])


async def leave_a_loop() -> None:
    async for _ in numbers():
        break


async def close() -> None:
    async with aclosing(numbers()) as opened:
        await anext(opened)
    _ = [number async for number in numbers()]
    numbers()  # never begun, so there is nothing to close


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("leave", [drop, keep, leave_a_loop])
def test_an_open_generator_is_named(leave: Callable[[], object], backend: str) -> None:
    with pytest.raises(AssertionError, match=r"async generators open: numbers at .*test_leaks"):
        with no_open_generator():
            anyio.run(leave, backend=backend)  # type: ignore[arg-type]
    KEPT.clear()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_closed_and_ended_generators_pass(backend: str) -> None:
    with no_open_generator():
        anyio.run(close, backend=backend)
        with asyncio.Runner() as runner:
            runner.run(close())


@pytest.mark.slow
def test_an_anyio_test_that_leaves_one_open_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_leaky=LEAKY)

    result = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"
    )

    # two backends, and one test of asyncio alone; the test itself passes, what is torn down after it fails
    result.assert_outcomes(passed=7, errors=5)
    result.stdout.fnmatch_lines_random(
        [f"ERROR*test_{name}*" for name in ("dropped[[]asyncio]", "dropped[[]trio]", "kept[[]trio]")]
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_open_socket_is_named_with_its_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        name = os.readlink(f"/proc/self/fd/{server.fileno()}")
        named = with_addresses([name, f"9 -> {name}", "9 -> pipe:[1]"])
    assert named == [
        "9 -> pipe:[1]",
        f"9 -> {name} (port {port} to 0, LISTEN)",
        f"{name} (port {port} to 0, LISTEN)",
    ]
