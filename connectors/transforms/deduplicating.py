"""`deduplicate`: keep the first record of each key, in a run or in all runs."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from connectors.expressions import Expression, ExpressionError, ExpressionText, as_mappings
from connectors.expressions.failures import EvaluationError
from connectors.expressions.functions import FUNCTIONS
from connectors.transforms.expected import ExpectedFields
from connectors.transforms.remembered import Candidate, RememberedKeys, SeenKeys, digest
from engine.contract.acks import Ack
from engine.contract.batch import Batch, Drop
from engine.contract.component import Kind, Params, Transform, component
from engine.errors import FatalError, RecordError

DUPLICATE: Final = Drop("duplicate")
NO_KEY: Final = Drop("no key")


class DeduplicateParams(Params):
    """Parameters of `deduplicate`."""

    key: ExpressionText | Annotated[list[ExpressionText], Field(min_length=1, max_length=50)] = Field(
        description="What two duplicates have in common: an expression, or a list of them"
    )
    within: Literal["run", "all_runs"] = Field(
        default="run",
        description="Where to look for duplicates: among the records of a run, or also among those that "
        "earlier runs of the pipeline have delivered, which the state directory stores",
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
        description="How many keys are held in memory, in at most 48 bytes each (of `all_runs`: those that "
        "are not delivered yet, in some 450)",
    )
    when_full: Literal["fail", "forget"] = Field(
        default="fail",
        description="Beyond `max_keys`: fail the run, or forget the oldest keys, half of them at a time",
    )

    @model_validator(mode="after")
    def _forgets_in_a_run(self) -> Self:
        if self.within == "all_runs" and self.when_full == "forget":
            raise ValueError("`when_full: forget` is for `within: run`: delivered keys are kept on the disk")
        return self

    def notes(self) -> list[str]:
        """Return notes for `validate`."""
        if self.within == "all_runs":
            return []
        return ["a resumed run does not remember the keys of the attempt before it"]


def _remembers(params: DeduplicateParams) -> bool:
    return params.within == "all_runs"


@component(Kind.TRANSFORM, "deduplicate", params=DeduplicateParams, whole_run=True, bookmarks=_remembers)
class Deduplicate(Transform[DeduplicateParams]):
    """Keeps the first record of each key, in a run or across runs; the others are dropped as `duplicate`.

    `within: run` remembers keys in memory as hashes of 64 bits: with a million keys, a collision occurs in
    about one of forty million runs. A resumed run begins with an empty memory.

    `within: all_runs` stores the keys of delivered records in the state directory, as hashes of 128 bits. A
    key is stored together with the position of its record, never before the record is delivered; keys of dead
    letters are not stored. `bookmarks reset` deletes them.

    Runs on several workers are refused, because no worker sees all records.
    """

    def __init__(self, params: DeduplicateParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        texts = [params.key] if isinstance(params.key, str) else params.key
        self._expressions = [Expression(text) for text in texts]
        self._expected = ExpectedFields(path for one in self._expressions for path in one.fields)
        self._seen = SeenKeys()
        self._before = SeenKeys()
        self._remembered: RememberedKeys | None = None

    async def __aenter__(self) -> Self:
        if _remembers(self.params):
            self._remembered = RememberedKeys(self.ctx, self.params.max_keys)
        return self

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change: always true."""
        return True

    @property
    def waits(self) -> bool:
        """Whether `apply` is asynchronous: true if it uses the state store."""
        return _remembers(self.params)

    def apply(self, batch: Batch) -> Batch | Awaitable[Batch]:
        """Drop records whose key an earlier record had."""
        if _remembers(self.params):
            return self._apply_remembering(batch)
        if not batch.records:
            return batch
        outcomes = [
            outcome if key is None or self._is_first(digest(key), digest(place)) else DUPLICATE
            for (outcome, key), place in zip(self._keyed(batch), _places(batch), strict=True)
        ]
        return batch.outcomes(outcomes)

    async def _apply_remembering(self, batch: Batch) -> Batch:
        assert self._remembered is not None, "use `async with`"
        keyed = self._keyed(batch)
        acks: list[Ack | None] = [ack for ack, count in batch.origins for _ in range(count)]
        acks = acks or [None] * len(batch)
        found = [
            (key, Candidate(digest(place), record_key, ack))
            for (_, key), place, record_key, ack in zip(
                keyed, _places(batch), batch.keys.to_list(), acks, strict=True
            )
            if key is not None
        ]
        first = iter(await self._remembered.first_of(found))
        outcomes = [outcome if key is None or next(first) else DUPLICATE for outcome, key in keyed]
        return batch.outcomes(outcomes) if outcomes else batch

    def _keyed(self, batch: Batch) -> list[tuple[Any, str | None]]:
        """Return each record's outcome if it is the first, and its key; None if it is not compared."""
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        return list(map(self._key_of, batch.records, records))

    def _key_of(self, record: Any, fields: Mapping[str, Any]) -> tuple[Any, str | None]:
        try:
            values = [expression.evaluate(fields) for expression in self._expressions]
        except ExpressionError as error:
            return error, None
        if all(value is None for value in values):
            if self.params.missing == "dead_letter":
                return RecordError("the key of the record is missing", kind="MissingKey"), None
            return (record if self.params.missing == "keep" else NO_KEY), None
        try:
            return record, FUNCTIONS["to_json"](values)
        except EvaluationError as error:
            message = f"the key of the record: {error}"
            return RecordError(message, kind="DeduplicateError", unplanned=True), None

    def _is_first(self, key: int, record: int) -> bool:
        """Compare with the record that first had the key, since a batch may be processed twice."""
        owner = self._seen.owner(key) or self._before.owner(key)
        if owner:
            return owner == record
        if self.params.when_full == "fail":
            if len(self._seen) >= self.params.max_keys:
                message = f"more than {self.params.max_keys:,} distinct keys: raise `max_keys`"
                raise FatalError(f"{message}, or set `when_full: forget`")
        elif len(self._seen) >= self.params.max_keys // 2:
            self.ctx.count("forgotten_keys", len(self._before))
            self._before, self._seen = self._seen, SeenKeys()
        self._seen.add(key, record)
        return True


def _places(batch: Batch) -> list[str]:
    """Return the identities of records: split, ordinal and key, since a source may repeat a key."""
    splits = [ack.tracker.key for ack, count in batch.origins for _ in range(count)] or [""] * len(batch)
    keys, ordinals = batch.keys.to_list(), batch.keys.ordinals()
    return [f"{split}\n{n}\n{key}" for split, n, key in zip(splits, ordinals, keys, strict=True)]
