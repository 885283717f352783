"""The sink `stdout`."""

from __future__ import annotations

import sys
from typing import BinaryIO, Literal, Self

from pydantic import BaseModel, Field

from connectors.json_lines import dump_records, write_out
from engine.contract.batch import Batch
from engine.contract.component import Kind, Locality, Params, Sink, component
from engine.errors import BatchError


class StdoutParams(Params):
    """Parameters of the `stdout` sink."""

    format: Literal["json", "pretty"] = Field(
        default="json", description="`json`: one record a line; `pretty`: indented, over several lines"
    )


@component(Kind.SINK, "stdout", params=StdoutParams, locality=Locality.PROCESS)
class StdoutSink(Sink[StdoutParams]):
    """Writes records to the standard output, as JSON.

    For trying a pipeline out, and for shell pipes (`… | jq .`). Output cannot be taken back: a resumed run
    may write its last records again.
    """

    inline = True

    def __init__(self, params: StdoutParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._out: BinaryIO | None = None

    async def __aenter__(self) -> Self:
        # looked up now: a program may have replaced it
        self._out = sys.stdout.buffer
        return self

    async def write(self, batch: Batch) -> None:
        """Write the batch at once and flush it.

        Raises:
            BatchError: some records cannot be written as JSON.
            FatalError: the reader of the output has gone.
        """
        assert self._out is not None, "enter the sink first"
        data, failures = dump_records(batch.records, pretty=self.params.format == "pretty")
        write_out(self._out, data)
        if failures:
            raise BatchError(failures)
