"""Components for pipelines that only wait: work of known duration, which reveals the overhead."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import anyio

from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Params, Receipt, Sink, Source, Transform, component
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue


class NumbersParams(Params):
    """The number of splits, and of records per split."""

    splits: int = 1
    records: int = 1


@component(Kind.SOURCE, "numbers", params=NumbersParams)
class Numbers(Source[NumbersParams]):
    """Yields numbers, one batch per split."""

    repeatable = True

    @property
    def fresh_keys(self) -> bool:
        return True

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        for number in range(self.params.splits):
            yield Split(f"{number:08d}", {}, number * self.params.records)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        if position is None:
            start, stop = split.first_ordinal, split.first_ordinal + self.params.records
            records = [{"n": number} for number in range(start, stop)]
            yield Batch(records, KeyRange("n/", start, stop), position=1)


class WaitParams(Params):
    """Seconds per batch."""

    seconds: float = 0.0


@component(Kind.TRANSFORM, "wait", params=WaitParams)
class Wait(Transform[WaitParams]):
    """Waits, as for a remote answer, and changes nothing."""

    @property
    def keeps_ids(self) -> bool:
        return True

    async def apply(self, batch: Batch) -> Batch:
        await anyio.sleep(self.params.seconds)
        return batch.replace(batch.records)


class ForgetParams(Params):
    """None."""


@component(Kind.SINK, "forget", params=ForgetParams)
class Forget(Sink[ForgetParams]):
    """Drops all records; the ledger has counted them."""

    inline = True

    async def write(self, batch: Batch) -> Receipt:
        return Receipt()
