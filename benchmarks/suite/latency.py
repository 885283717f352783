"""How long a small request waits for its commit, alone and while clients send as fast as they can."""

from __future__ import annotations

import atexit
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anyio

from benchmarks.engine_commands import needs, serving
from benchmarks.model import Arm, Benchmark, Goal, Scale, Work
from benchmarks.statistics import percentile

if TYPE_CHECKING:
    import httpx

PACE = 0.02
"""Seconds between small requests, even if the previous one is unanswered."""

SMALL, LARGE = 100, 500
"""Records in a measured request, and in one of the others."""

_requests = count()


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``ingest_latency``: the 99th percentile, from when a request was due to its answer."""
    posts, clients = scale.pick(1_000, 10), scale.pick(8, 2)
    unavailable = needs("serve")
    return [
        Benchmark(
            name="ingest_latency",
            description=f"{posts:,} requests of {SMALL} records, each {PACE * 1_000:.0f} ms; 99th percentile",
            arms=[
                Arm("alone", partial(post_in_time, posts, 0), unavailable=unavailable),
                Arm(
                    f"beside {clients} clients",
                    partial(post_in_time, posts, clients),
                    goals=[Goal("p99", "<=", 0.25)],
                    unavailable=unavailable,
                ),
            ],
            reference="alone",
            unit="requests",
            metric="p99",
            pairs=5,
            libraries=("duckdb", "httpx", "pydantic", "starlette", "uvicorn"),
        )
    ]


async def post_in_time(posts: int, clients: int) -> Work:
    """Post at fixed times while this many clients load the service without a pause.

    A request counts from when it was due: one that has to wait for a connection is late as well. Raises
    httpx.HTTPStatusError for a request that was not stored.
    """
    import httpx

    waits: list[float] = []
    limits = httpx.Limits(max_connections=posts + clients)
    async with httpx.AsyncClient(base_url=_service(), limits=limits, timeout=60) as client:
        await _post(client, SMALL)  # opens the first connection
        async with anyio.create_task_group() as others:
            for _ in range(clients):
                others.start_soon(_load, client)
            start = time.perf_counter() + PACE
            async with anyio.create_task_group() as small:
                for number in range(posts):
                    due = start + number * PACE
                    await anyio.sleep(max(0.0, due - time.perf_counter()))
                    small.start_soon(_post_due, client, due, waits)
            others.cancel_scope.cancel()
    figures = {"p50": percentile(waits, 50), "p99": percentile(waits, 99), "longest": max(waits)}
    return Work(len(waits), f"{posts} requests stored", figures)


async def _post_due(client: httpx.AsyncClient, due: float, waits: list[float]) -> None:
    await _post(client, SMALL)
    waits.append(time.perf_counter() - due)


async def _load(client: httpx.AsyncClient) -> None:
    while True:
        await _post(client, LARGE)


async def _post(client: httpx.AsyncClient, records: int) -> None:
    answer = await client.post(
        "/ingest/LogSource", content=_body(records), headers={"X-ODW-Delivery": "fresh"}
    )
    answer.raise_for_status()


def _body(records: int) -> bytes:
    """Return new records, created with minimal work, since the clients share this process with the clock."""
    return _template(records).replace(b"@", str(next(_requests)).encode())


@cache
def _template(records: int) -> bytes:
    import orjson

    return orjson.dumps(
        [
            {
                "id": f"@/{number}",
                "timestamp": "2026-11-23T16:53:41.000000+00:00",
                "level": "INFO",
                "message": f"a line as an application's log has it {number}",
                "source": "checkout",
                "trace_id": f"{number:032x}",
            }
            for number in range(records)
        ]
    )


@cache
def _service() -> str:
    """The address of a service, in a process of its own until this one ends."""
    stack = ExitStack()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(TemporaryDirectory()))
    return stack.enter_context(serving(folder)).url
