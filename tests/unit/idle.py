"""Components that do nothing, for tests of what their specifications say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TypeVar

from pydantic import BaseModel

from engine.contract.batch import Batch
from engine.contract.component import Sink, Source, Transform
from engine.contract.types import Record

P = TypeVar("P", bound=BaseModel)


class IdleSource(Source[P]):
    """Has no records."""

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        yield []


class IdleTransform(Transform[P]):
    """Passes every batch on."""

    def apply(self, batch: Batch) -> Batch:
        return batch


class IdleSink(Sink[P]):
    """Takes every batch."""

    async def write(self, batch: Batch) -> None:
        pass
