"""`python -m tests.temporal.record`: records the stored histories again, on a dev server.

They are replayed by `tests/unit/temporal/test_workflow_replay.py`, so that a change of the workflows that
would break runs under way is found. Record them again only with a change that is meant to end all runs begun
before it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError

from engine.temporal.messages import ChunkRequest, ChunkResult
from engine.temporal.workflows import PipelineRun
from tests.servers.temporal import running
from tests.temporal.histories import Family, family
from tests.temporal.stubs import Handle, Stubs, done
from tests.temporal.workshop import until

__all__ = ["FOLDER", "SCENARIOS", "main"]

FOLDER = Path(__file__).parent / "histories"
SUGGESTED = 25


async def held(request: ChunkRequest) -> ChunkResult:
    """A chunk that runs until it is stopped."""
    while True:
        activity.heartbeat()
        await anyio.sleep(0.05)


async def _done(client: Client) -> Family:
    stubs = Stubs(client, splits=3)
    async with stubs.working():
        handle = await stubs.start(shards=2, search_attributes=True)
        await handle.result()
        return await family(client, handle.id)


async def _continued(client: Client) -> Family:
    stubs = Stubs(client, splits=12)
    async with stubs.working():
        handle = await stubs.start(shards=1, window=2)
        await handle.result()
        return await family(client, handle.id)


async def _paused(client: Client) -> Family:
    stubs = Stubs(client, splits=4, work=held)
    async with stubs.working():
        handle = await _under_way(stubs)
        await handle.execute_update(PipelineRun.pause)
        await handle.execute_update(PipelineRun.set_window, 3)
        found = await family(client, handle.id)
        await _ended(handle)
        return found


async def _cancelled(client: Client) -> Family:
    stubs = Stubs(client, splits=4, work=held)
    async with stubs.working():
        handle = await _under_way(stubs)
        await _ended(handle)
        return await family(client, handle.id)


async def _parked(client: Client) -> Family:
    async def stuck(request: ChunkRequest) -> ChunkResult:
        return ChunkResult(done=False) if request.first == 1 else await done(request)

    stubs = Stubs(client, splits=3, work=stuck)
    async with stubs.working():
        handle = await stubs.start(shards=1, max_failed_chunks=1)
        await handle.result()
        return await family(client, handle.id)


SCENARIOS: dict[str, Callable[[Client], Awaitable[Family]]] = {
    "done": _done,
    "continued": _continued,
    "paused": _paused,
    "cancelled": _cancelled,
    "parked": _parked,
}
"""What the stored histories are of."""


async def _under_way(stubs: Stubs) -> Handle:
    handle = await stubs.start(shards=1, window=2)
    await until(handle, lambda progress: progress.shards == 1)
    while len(stubs.chunks) < 2:  # noqa: ASYNC110 - there is no event for it
        await anyio.sleep(0.02)
    return handle


async def _ended(handle: Handle) -> None:
    await handle.cancel()
    try:
        await handle.result()
    except WorkflowFailureError:
        return


async def _record(name: str, client: Client) -> None:
    found = await SCENARIOS[name](client)
    named = {"run": found.root}
    named |= {f"shard-{n}-{m}": part for n, parts in enumerate(found.shards) for m, part in enumerate(parts)}
    for part, history in named.items():
        path = FOLDER / f"{name}-{part}.json"
        path.write_text(json.dumps(json.loads(history.to_json()), separators=(",", ":")) + "\n", "utf-8")
        sys.stdout.write(f"{path.name}: {len(history.events)} events\n")


def main() -> None:
    """Record all of them."""
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name in SCENARIOS:
        suggested = {"limit.historyCount.suggestContinueAsNew": str(SUGGESTED)} if name == "continued" else {}
        with tempfile.TemporaryDirectory() as folder, running(Path(folder), dynamic=suggested) as server:
            asyncio.run(_record(name, server.client))


if __name__ == "__main__":
    main()
