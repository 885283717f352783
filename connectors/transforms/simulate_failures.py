"""`simulate_failures`: mark an exact share of the records as failures, to exercise dead letters.

The mark is `[DLQ]` in front of a text field, for which a later transform or service refuses the record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from random import Random
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, Field, field_validator

from connectors.curated import FAILURE_PREFIX
from engine.contract.batch import Batch
from engine.contract.component import Kind, Params, Transform, component
from engine.contract.types import Record
from engine.errors import RecordError

MARKED_FIELDS = ("file_name", "message", "distinct_id", "source_file_path")
"""Fields for the mark: the first one that is a text is used."""

BLOCK = 100
"""Block of records in which the share is exact."""

_PARTS = 10_000
"""Steps of one percent: shares are kept in whole millionths, so that carrying over is exact."""

_SIMULATED: Final = RecordError("chosen by simulate_failures to fail", kind="SimulatedFailure")

R = TypeVar("R", bound=Mapping[str, object] | BaseModel)


class FailurePattern:
    """Which source ordinals fail: `percentage` of every aligned block of 100, spread evenly over it.

    A block is divided into as many strata as it has failures, and a seeded place in each fails. So an integer
    percentage is exact in every block, nearly exact in any sequence of records, and does not depend on
    batches. The remainder of a fractional percentage is carried over to the next block. `percentage` is
    clamped to 0 to 100.
    """

    def __init__(self, percentage: float, seed: int | str = 0) -> None:
        self.millionths = round(min(max(percentage, 0.0), 100.0) * _PARTS)
        self.seed = seed

    def is_failure(self, ordinals: Sequence[int]) -> list[bool]:
        """Return whether each of these ordinals fails, in order; fastest for a `range`."""
        if isinstance(ordinals, range) and ordinals.step == 1 and ordinals:
            first = ordinals.start // BLOCK
            marks: list[bool] = []
            for block in range(first, (ordinals.stop - 1) // BLOCK + 1):
                marks += self._block(block)
            offset = ordinals.start - first * BLOCK
            return marks[offset : offset + len(ordinals)]
        blocks = {block: self._block(block) for block in {ordinal // BLOCK for ordinal in ordinals}}
        return [blocks[ordinal // BLOCK][ordinal % BLOCK] for ordinal in ordinals]

    def _block(self, block: int) -> list[bool]:
        whole = BLOCK * self.millionths
        count = (block + 1) * whole // (100 * _PARTS) - block * whole // (100 * _PARTS)
        return _spread(BLOCK, count, f"{self.seed}/{block}")


def _spread(size: int, count: int, seed: str) -> list[bool]:
    """Return `count` of `size` places, one in each of `count` equal strata."""
    if count == 0 or count == size:
        return [bool(count)] * size
    draw = Random(f"simulate_failures/{seed}").random  # noqa: S311 - simulated failures, not secrets
    marks = [False] * size
    for stratum in range(count):
        low, high = stratum * size // count, (stratum + 1) * size // count
        marks[low + int(draw() * (high - low))] = True
    return marks


def simulate_failures(
    records: Sequence[R], fail_percentage: float, *, field: str | None = None, seed: int | str = 0
) -> list[R]:
    """Mark a share of a list without modifying the list or its records.

    Args:
        records: mappings or Pydantic models.
        fail_percentage: clamped to 0 to 100; the count is rounded half up, so 20 % of 4 is one.
        field: field for the mark (default: the first of `MARKED_FIELDS` that a record has).
        seed: seed of the choice; failures are spread evenly over the list.

    Raises:
        RecordError: a chosen record has no such text field.
    """
    share = min(max(fail_percentage, 0.0), 100.0)
    count = math.floor(len(records) * share / 100 + 0.5)
    marks = _spread(len(records), count, str(seed))
    return [_mark(record, field) if fails else record for record, fails in zip(records, marks, strict=True)]


def _mark(record: R, field: str | None) -> R:
    """Return the record with the mark; one that has it already is not changed."""
    for name in (field,) if field else MARKED_FIELDS:
        value = record.get(name) if isinstance(record, Mapping) else getattr(record, name, None)
        if not isinstance(value, str):
            continue
        if value.startswith(FAILURE_PREFIX):
            return record
        change = {name: FAILURE_PREFIX + value}
        if isinstance(record, BaseModel):
            return record.model_copy(update=change)
        return {**record, **change}  # type: ignore[return-value]
    wanted = f"text field {field!r}" if field else f"text field among {', '.join(MARKED_FIELDS)}"
    raise RecordError(f"cannot be marked as a failure: it has no {wanted}", kind="NoFieldToMark")


class SimulateFailuresParams(Params):
    """Parameters of `simulate_failures`."""

    percentage: float = Field(
        default=0.0,
        allow_inf_nan=False,
        description="Share of the records to mark, in percent, clamped to 0 to 100",
    )
    action: Literal["mark", "dead_letter"] = Field(
        default="mark",
        description="What happens to a chosen record: `mark` puts the mark in front of the field, for the "
        "service to refuse; `dead_letter` makes it a dead letter here",
    )
    field: str | None = Field(
        default=None,
        min_length=1,
        description=f"The text field to mark (default: the first of {', '.join(MARKED_FIELDS)})",
    )

    @field_validator("percentage", mode="before", json_schema_input_type=float | None)
    @classmethod
    def _none_is_zero(cls, value: object) -> object:
        return 0.0 if value is None else value

    @field_validator("percentage")
    @classmethod
    def _clamp(cls, value: float) -> float:
        return min(max(value, 0.0), 100.0)


@component(Kind.TRANSFORM, "simulate_failures", params=SimulateFailuresParams)
class SimulateFailures(Transform[SimulateFailuresParams]):
    """Marks an exact share of the records as failures, with `[DLQ]` in front of a text field.

    The ingest service refuses marked records, so they become dead letters. With `action: dead_letter` they
    become dead letters here, for pipelines whose sinks accept marks. Records are chosen by their position in
    the source: exactly `percentage` of every hundred, the same ones when a run is resumed. A chosen record
    without a field to mark becomes a dead letter at once.
    """

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change; a mark in the id changes it."""
        return self.params.field != "id"

    def apply(self, batch: Batch) -> Batch:
        """Mark the chosen records; a batch without any is passed on unchanged."""
        if not self._pattern.millionths:
            return batch
        marks = self._pattern.is_failure(batch.keys.ordinals())
        if self.params.action == "dead_letter":
            return batch.outcomes(
                [_SIMULATED if fails else record for record, fails in zip(batch.records, marks, strict=True)]
            )
        records: list[Record] = list(batch.records)
        failed = False
        for index in compress(range(len(marks)), marks):
            try:
                records[index] = _mark(records[index], self.params.field)
            except RecordError as error:
                records[index] = error
                failed = True
        return batch.outcomes(records) if failed else batch.replace(records)

    @cached_property
    def _pattern(self) -> FailurePattern:
        # Created with the first batch: by then the engine has set the context.
        return FailurePattern(self.params.percentage, self.ctx.seed)
