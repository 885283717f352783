"""A file that is being opened when its reader is cancelled."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

import pytest

from connectors.files import source as files_source
from connectors.files.source import FilesParams, FilesSource
from connectors.objects.listed import ListedObject
from engine.contract.component import Context


@pytest.mark.asyncio
async def test_a_file_opened_after_its_reader_was_cancelled_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n")
    opening, may_open, is_open = threading.Event(), threading.Event(), threading.Event()
    files: list[IO[bytes]] = []
    really_open = files_source._opened

    def slow(found: ListedObject, start: int) -> IO[bytes]:
        opening.set()
        may_open.wait(300)
        files.append(really_open(found, start))
        is_open.set()
        return files[0]

    monkeypatch.setattr(files_source, "_opened", slow)
    source = FilesSource(FilesParams(pattern=str(path)), None)
    source.ctx = Context(node="read")

    async def read() -> None:
        async with AsyncExitStack() as stack:
            store = await source.open_store(stack)
            await stack.enter_async_context(store.open(ListedObject(str(path), "", path.stat().st_size)))

    # aiostream cancels its tasks in this way, which passes through anyio's shield around a thread
    task = asyncio.create_task(read())
    await asyncio.to_thread(opening.wait, 300)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_open.set()
    await asyncio.to_thread(is_open.wait, 300)
    async with asyncio.timeout(300):
        while not files[0].closed:  # noqa: ASYNC110 - no event tells of a close
            await asyncio.sleep(0.001)
