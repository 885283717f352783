"""The transform between a source model and its warehouse table.

It works on whole lists of plain mappings and builds no model per row: the records were validated on arrival,
and a row differs from its record by one field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from engine.errors import RecordError

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

FAILURE_PREFIX = "[DLQ]"
"""A text field that starts with this marks its record as a failure, to exercise the dead letters."""


def curate(
    records: Sequence[Mapping[str, object]], *, field: str, now: datetime | None = None
) -> list[dict[str, object] | Exception]:
    """Turn validated source records into rows, in order, without changing the input.

    Every row is the record plus `transform_timestamp` (`now`, the current time by default; one for the whole
    list). A record whose `field` starts with `[DLQ]` is replaced by the `RecordError` for its dead letter,
    which names the field and shows no content.
    """
    timestamp = (now or datetime.now(UTC)).isoformat()
    # One error for all of them: they are equal, and it is never raised.
    refused = RecordError(
        f"{field} starts with {FAILURE_PREFIX}: the record is marked as a failure", kind="MarkedAsFailure"
    )
    width = len(FAILURE_PREFIX)
    return [
        # A slice costs half as much as calling `startswith`.
        refused if record[field][:width] == FAILURE_PREFIX else {**record, "transform_timestamp": timestamp}  # type: ignore[index]
        for record in records
    ]


def curate_columns(columns: pa.Table, *, field: str, now: datetime | None = None) -> pa.Table | None:
    """Like `curate`, for a table of validated records; None if a record is marked as a failure."""
    import pyarrow as pa
    from pyarrow import compute

    if compute.any(compute.starts_with(columns.column(field), FAILURE_PREFIX)).as_py():
        return None
    timestamp = pa.scalar((now or datetime.now(UTC)).isoformat(), pa.string())
    return columns.append_column("transform_timestamp", pa.repeat(timestamp, columns.num_rows))
