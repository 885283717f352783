"""The source `stdin`."""

from __future__ import annotations

from pydantic import BaseModel, Field

from connectors.files.jsonl_source import STDIN, JsonlSource, JsonlSourceParams, reads_stdin
from engine.contract.component import Kind, Locality, Params, component, operational


class StdinSourceParams(Params):
    """Parameters of the `stdin` source."""

    key: str | None = Field(default=None, description="Field that identifies a record (default: the line)")
    max_line_bytes: int = Field(
        default=16 * 1024 * 1024, gt=0, description="Lines longer than this become dead letters"
    )
    page_records: int = operational(512, ge=1, le=10_000, description="Maximum records per batch")

    def notes(self) -> list[str]:
        """Return notes for `validate`."""
        return ["the standard input cannot be read twice: a run of it cannot be resumed"]


@component(Kind.SOURCE, "stdin", params=StdinSourceParams, locality=Locality.PROCESS, claim=reads_stdin)
class StdinSource(JsonlSource):
    """Reads JSON lines from the standard input as they arrive.

    The same as `jsonl` with `path: "-"`. A line that cannot be read becomes a dead letter with its number
    (`-:17`), and reading continues after it. The input cannot be read twice, so a run cannot be resumed.
    """

    def __init__(self, params: StdinSourceParams, connection: BaseModel | None = None) -> None:
        super().__init__(JsonlSourceParams(path=STDIN, **params.model_dump()), connection)
