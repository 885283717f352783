"""A transform for trials that notes passing records, and holds them until it is released.

Without it a run would be over before anything could be done to it, or not, as the machine pleases.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio

from engine.contract.batch import Batch
from engine.contract.component import Kind, NoParams, Transform, component

__all__ = ["CLOSED", "NOTES", "Gate", "Note", "notes"]

CLOSED = "ODW_TEST_GATE"
"""Names a file: while it is there, a process that has this variable lets nothing through."""

NOTES = "ODW_TEST_NOTES"
"""Names the file to which a process appends a line for each batch that arrives."""

LOOK_EVERY = 0.02


@dataclass(frozen=True)
class Note:
    """A batch that has arrived: of which run and chunk, and the keys of its records."""

    run: str
    chunk: str
    keys: tuple[str, ...]


@component(Kind.TRANSFORM, "gate", params=NoParams)
class Gate(Transform[NoParams]):
    """Changes nothing. What it holds passes when its chunk is told to stop, as a drain has to deliver it."""

    @property
    def keeps_ids(self) -> bool:
        return True

    async def apply(self, batch: Batch) -> Batch:
        self._note(batch)
        while _closed() and not self.ctx.draining():  # noqa: ASYNC110 - another process opens it
            await anyio.sleep(LOOK_EVERY)
        return batch.replace(batch.records)

    def _note(self, batch: Batch) -> None:
        if where := os.environ.get(NOTES):
            line = json.dumps([self.ctx.run_id, self.ctx.chunk, batch.keys.to_list()])
            with Path(where).open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def _closed() -> bool:
    return Path(os.environ.get(CLOSED, "")).is_file()


def notes(file: Path) -> Iterator[Note]:
    """What a process has noted so far, in order; a line that is being written is left out."""
    if file.exists():
        for line in file.read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                run, chunk, keys = json.loads(line)
                yield Note(run, chunk, tuple(keys))
