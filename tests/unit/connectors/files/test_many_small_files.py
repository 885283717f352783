"""Folders of very many small files: what each costs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from connectors.files import source as files_source
from connectors.files.source import FilesParams, FilesSource
from engine.contract.component import Context


@asynccontextmanager
async def folder(pattern: str) -> AsyncGenerator[Any, None]:
    source = FilesSource(FilesParams(pattern=pattern), None)
    source.ctx = Context(node="read")
    async with AsyncExitStack() as stack:
        yield await source.open_store(stack)


@pytest.mark.parametrize("stop", [None, 3, 64])
async def test_a_small_file_takes_one_turn_of_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int | None
) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n')
    turns: list[Any] = []
    really = anyio.to_thread.run_sync

    async def counted(work: Any, *arguments: Any) -> Any:
        turns.append(work)
        return await really(work, *arguments)

    async with folder(f"{tmp_path}/*") as store, aclosing(store.pages()) as pages:
        (found,) = await anext(pages)
        monkeypatch.setattr(anyio.to_thread, "run_sync", counted)
        async with store.open(found, 0, stop) as body:
            pieces = [await body.read(), await body.read()]
    assert pieces == [b'{"n": 1}\n'[:stop], b""]
    assert len(turns) == 1


async def test_a_file_is_listed_as_it_is_when_its_page_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as it was when the first of 100,000 files was found: reading them takes a while."""
    monkeypatch.setattr(files_source, "PAGE_FILES", 1)
    for name in "abc":
        (tmp_path / name).write_text(name)
    async with folder(f"{tmp_path}/*") as store, aclosing(store.pages()) as pages:
        assert [found.size for found in await anext(pages)] == [1]
        (tmp_path / "b").write_text("longer")
        (tmp_path / "c").unlink()
        assert [found.size for found in await anext(pages)] == [6]
        (gone,) = await anext(pages)
        assert gone.etag == ""  # reading it says that it is gone
