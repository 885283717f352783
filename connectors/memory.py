"""The sink `memory`."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from engine.contract.batch import Batch
from engine.contract.component import Kind, Locality, Params, Sink, component
from engine.contract.types import Record
from engine.errors import BatchError, FatalError, RecordError


class MemorySinkParams(Params):
    """Parameters of the `memory` sink."""

    max_records: int = Field(
        default=1_000_000, ge=1, description="Fail the run if it would keep more records than this"
    )


@component(Kind.SINK, "memory", params=MemorySinkParams, locality=Locality.PROCESS)
class MemorySink(Sink[MemorySinkParams]):
    """Keeps records in memory, for programs that read them from the report of the run.

    `report.records("load")` returns them unchanged, `report.table("load")` as a pyarrow table. They are lost
    when the process ends, and a resumed run has only the records since.
    """

    inline = True

    def __init__(self, params: MemorySinkParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._records: dict[str, list[Record]] = {}
        self._count = 0

    async def write(self, batch: Batch) -> None:
        """Keep the batch. A repeated record replaces the one with its key.

        Raises:
            BatchError: some records are neither mappings nor models.
            FatalError: there are more than `max_records`.
        """
        kept = self._records
        failures: dict[int, RecordError] = {}
        for index, (key, record) in enumerate(zip(batch.keys.to_list(), batch.records, strict=True)):
            if not isinstance(record, dict | BaseModel):
                kind = type(record).__name__
                failures[index] = RecordError(f"expected a mapping, got {kind}", kind="NotAMapping")
            elif batch.replay or key not in kept:
                self._count += key not in kept
                kept[key] = [record]
            else:
                self._count += 1
                kept[key].append(record)
        if self._count > self.params.max_records:
            raise FatalError(
                f"more than {self.params.max_records} records: raise `max_records`, or write them to a file"
            )
        if failures:
            raise BatchError(failures)

    def collected(self) -> Sequence[Record]:
        """Return the records kept so far."""
        return [record for records in self._records.values() for record in records]
