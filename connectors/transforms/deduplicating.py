"""`deduplicate`: keep the first record of each key in a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from connectors.expressions import Expression, ExpressionError, ExpressionText, as_mappings
from connectors.expressions.failures import EvaluationError
from connectors.expressions.functions import FUNCTIONS
from connectors.transforms.seen import SeenKeys, digest
from engine.contract.batch import Batch, Drop
from engine.contract.component import Kind, Params, Transform, component
from engine.errors import FatalError, RecordError

__all__ = ["Deduplicate", "DeduplicateParams"]

DUPLICATE: Final = Drop("duplicate")
NO_KEY: Final = Drop("no key")


class DeduplicateParams(Params):
    """Parameters of `deduplicate`."""

    key: ExpressionText | Annotated[list[ExpressionText], Field(min_length=1, max_length=50)] = Field(
        description="What two duplicates have in common: an expression, or a list of them"
    )
    within: Literal["run"] = Field(
        default="run", description="Where duplicates are looked for: among the records of a run"
    )
    missing: Literal["keep", "drop", "dead_letter"] = Field(
        default="keep",
        description="What happens to a record whose key is missing or null (all of it, if it is a list): "
        "there is nothing to compare it by",
    )
    max_keys: int = Field(
        default=1_000_000,
        ge=2,
        le=100_000_000,
        description="How many keys are remembered, in at most 48 bytes each",
    )
    when_full: Literal["fail", "forget"] = Field(
        default="fail",
        description="Beyond `max_keys`: fail the run, or forget the oldest keys, half of them at a time",
    )

    def notes(self) -> list[str]:
        """What a resume does not know."""
        return ["a resumed run does not remember the keys of the attempt before it"]


@component(Kind.TRANSFORM, "deduplicate", params=DeduplicateParams, whole_run=True)
class Deduplicate(Transform[DeduplicateParams]):
    """Keeps the first record of each key in a run; the others are dropped as `duplicate`.

    Keys are remembered in memory as hashes of 64 bits: among a million keys, two that differ look alike in
    one run of some forty million. A resumed run begins with an empty memory, and runs on several workers are
    refused, because no worker sees all records. For duplicates among runs, let the sink write by key.
    """

    def __init__(self, params: DeduplicateParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        texts = [params.key] if isinstance(params.key, str) else params.key
        self._expressions = [Expression(text) for text in texts]
        self._seen = SeenKeys()
        self._before = SeenKeys()

    @property
    def keeps_ids(self) -> bool:
        """Whether ids stay unchanged: always."""
        return True

    def apply(self, batch: Batch) -> Batch:
        """Drop what has a key that another record had."""
        if not batch.records:
            return batch
        records = as_mappings(batch.records)
        outcomes = [
            self._outcome(record, plain, place)
            for record, plain, place in zip(batch.records, records, _places(batch), strict=True)
        ]
        return batch.outcomes(outcomes)

    def _outcome(self, record: Any, plain: Mapping[str, Any], place: str) -> Any:
        try:
            values = [expression.evaluate(plain) for expression in self._expressions]
        except ExpressionError as error:
            return error
        if all(value is None for value in values):
            if self.params.missing == "dead_letter":
                return RecordError("the key of the record is missing", kind="MissingKey")
            return record if self.params.missing == "keep" else NO_KEY
        try:
            key = digest(FUNCTIONS["to_json"](values))
        except EvaluationError as error:
            return RecordError(f"the key of the record: {error}", kind="DeduplicateError", unplanned=True)
        # by the record that was first, and not by having been seen: a batch may be worked on twice
        own = digest(place)
        return record if self._first(key, own) == own else DUPLICATE

    def _first(self, key: int, record: int) -> int:
        owner = self._seen.owner(key) or self._before.owner(key)
        if owner:
            return owner
        if self.params.when_full == "fail":
            if len(self._seen) >= self.params.max_keys:
                message = f"more than {self.params.max_keys:,} distinct keys: raise `max_keys`"
                raise FatalError(f"{message}, or set `when_full: forget`")
        elif len(self._seen) >= self.params.max_keys // 2:
            self.ctx.count("forgotten_keys", len(self._before))
            self._before, self._seen = self._seen, SeenKeys()
        self._seen.add(key, record)
        return record


def _places(batch: Batch) -> list[str]:
    """What tells the records of a run apart: split, ordinal and key, for a source may give a key twice."""
    splits = [ack.tracker.key for ack, count in batch.origins for _ in range(count)] or [""] * len(batch)
    keys, ordinals = batch.keys.to_list(), batch.keys.ordinals()
    return [f"{split}\n{n}\n{key}" for split, n, key in zip(splits, ordinals, keys, strict=True)]
