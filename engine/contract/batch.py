"""Batches, the units that move through a pipeline.

Records have no wrapper objects. Their accounting data (the key, the source batch) is in the batch, next to
the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from engine.contract.keys import KeyList, Keys, join_keys
from engine.contract.types import JsonValue, Record, Reservation
from engine.errors import FatalError, RecordError, TransientError

if TYPE_CHECKING:
    from engine.contract.acks import Ack, Origin
    from engine.contract.bookmarks import Bookmark

__all__ = ["Batch", "DeadItem", "Drop", "Outcome", "count_origins", "join"]


class _MisuseError(FatalError, ValueError):
    """Arguments that a method of `Batch` does not take; the message contains nothing of a record."""


class Drop:
    """An outcome that drops a record, with the reason for the report."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


Failure: TypeAlias = "RecordError | TransientError"

FILTERED: Final = Drop("filtered")


@dataclass(frozen=True, slots=True)
class DeadItem:
    """An item of a list that becomes a separate dead letter, under the key that it would have as a record.

    Args:
        record: the record of the dead letter; a replay passes it to the same transform.
        error: the reason.
    """

    record: Record
    error: RecordError


Outcome: TypeAlias = Any
"""The outcome of one record: the new record, None or `Drop` (drop it), a list (fan out), a `RecordError` (it
becomes a dead letter) or a `TransientError` (only this record is retried). A list may have a `DeadItem`
instead of a record."""


class Batch:
    """Ordered records with their keys and origins; the unit on every edge.

    Read-only once it has been passed on: derive a new batch with `replace`, `select` or `outcomes`.

    Attributes:
        records: the values, in order.
        keys: their keys, in the same order, created on demand.
        origins: run-length (ack, count) pairs in record order; the runner sets them on source batches.
        nbytes: estimated size in memory; 0 means not estimated yet.
        position: on source batches, the next unread place in the split after this batch (JSON-safe).
        reservation: on source batches, the reservation if the source reserved its bytes itself.
        failures: records that failed while this batch was derived, as (index in the input batch, error): a
            `RecordError` is final, a `TransientError` retries that record alone. On a source batch the
            indices are its own, and only `RecordError` is allowed.
        dropped: records dropped while this batch was derived, as (their ack, reason, count), in any order;
            the ack is None without origins.
        dead_items: on a derived batch, the dead items of its lists, with their errors as `failures`; None
            without any.
        branches: on a router's output, a mask of the records for each of its branches; None elsewhere.
        bookmarks: on source batches, bookmarks to commit once this batch and everything before it in its
            split is settled.
    """

    __slots__ = (
        "bookmarks", "branches", "dead_items", "dropped", "failures", "keys", "nbytes", "origins", "position",
        "records", "reservation",
    )  # fmt: skip

    def __init__(
        self,
        records: list[Record],
        keys: Keys | Sequence[str],
        *,
        position: JsonValue = None,
        nbytes: int = 0,
        reservation: Reservation | None = None,
    ) -> None:
        self.records = records
        self.keys = keys if isinstance(keys, Keys) else KeyList(keys)
        self.origins: Sequence[Origin] = ()
        self.nbytes = nbytes
        self.position = position
        self.reservation = reservation
        self.failures: Sequence[tuple[int, Failure]] = ()
        self.dropped: Sequence[tuple[Ack | None, str, int]] = ()
        self.dead_items: Batch | None = None
        self.bookmarks: Sequence[Bookmark] = ()
        self.branches: Mapping[str, Sequence[object]] | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def drops(self) -> Mapping[str, int]:
        """Number of records dropped while this batch was derived, by reason."""
        sums: dict[str, int] = {}
        for _, reason, count in self.dropped:
            sums[reason] = sums.get(reason, 0) + count
        return sums

    @property
    def replay(self) -> bool:
        """Whether some of these records may have been delivered before."""
        return any(ack.replay for ack, _ in self.origins)

    def replace(self, records: list[Record]) -> Batch:
        """Replace the records one to one, with the same keys and origins."""
        if len(records) != len(self.records):
            expected = len(self.records)
            raise _MisuseError(
                f"`batch.replace` takes one record for each of {expected}, got {len(records)}: "
                "`batch.select` drops records, and `batch.outcomes` takes a list of new records for each"
            )
        return self._derive(records, self.keys, self.origins)

    def select(self, mask: Sequence[object], reason: str = "filtered") -> Batch:
        """Keep the records that are true in `mask`; the others count as dropped for `reason`."""
        if len(mask) != len(self.records):
            expected = len(self.records)
            raise _MisuseError(f"`batch.select` takes one value for each of {expected}, got {len(mask)}")
        records = list(compress(self.records, mask))
        gone = len(self.records) - len(records)
        if not gone:
            return self
        count = len(records)
        derived = self._derive(
            records, self.keys.select(mask, count), _select_origins(self.origins, mask, count)
        )
        if len(self.origins) == 1:
            derived.dropped = (*self.dropped, (self.origins[0][0], reason, gone))
        else:
            places = [index for index, kept in enumerate(mask) if not kept]
            derived.dropped = (*self.dropped, *_owned(self.origins, places, [reason] * gone))
        return derived

    def outcomes(self, outcomes: Sequence[Outcome]) -> Batch:
        """Derive a batch from one outcome per record: a record, None or `Drop`, a list, or an error.

        A `RecordError` is final, a `TransientError` retries that record. Within one `apply` failures can be
        given only once, before anything else is dropped.
        """
        return _from_outcomes(self, outcomes)

    def slice(self, start: int, stop: int) -> Batch:
        """Return records `start` to `stop` (exclusive) as a batch."""
        size = len(self.records)
        part = Batch(self.records[start:stop], self.keys.slice(start, stop))
        part.origins = _slice_origins(self.origins, start, stop)
        part.nbytes = self.nbytes * (stop - start) // size if size else 0
        return part

    def take(self, indices: Sequence[int]) -> Batch:
        """Return the records at these ascending indices as a batch."""
        chosen = set(indices)
        mask = [index in chosen for index in range(len(self.records))]
        part = Batch([self.records[index] for index in indices], self.keys.take(indices))
        part.origins = _select_origins(self.origins, mask, len(indices))
        part.nbytes = self.nbytes * len(indices) // len(self.records) if self.records else 0
        return part

    def with_suffix(self, suffix: str) -> Batch:
        """Return the records with `suffix` appended to their keys."""
        derived = self._derive(self.records, self.keys.with_suffix(suffix), self.origins)
        derived.branches = self.branches
        return derived

    def spend(self, tokens_in: int, tokens_out: int, cost_usd: float) -> None:
        """Book the cost of a paid call for these records on their origins, in proportion to record counts."""
        left, total = len(self.records), len(self.records)
        for ack, count in self.origins:
            share_in, share_out = tokens_in * count // left, tokens_out * count // left
            ack.add_cost(share_in, share_out, cost_usd * count / total)
            tokens_in, tokens_out, left = tokens_in - share_in, tokens_out - share_out, left - count

    def _derive(self, records: list[Record], keys: Keys, origins: Sequence[Origin]) -> Batch:
        # without `__init__`, which would set these attributes twice
        derived = Batch.__new__(Batch)
        derived.records = records
        derived.keys = keys
        derived.origins = origins
        # a transform may derive in several steps; drops of earlier steps still count
        derived.failures = self.failures
        derived.dropped = self.dropped
        derived.dead_items = self.dead_items
        derived.position = derived.reservation = None
        derived.bookmarks = ()
        derived.branches = None
        size = len(self.records)
        derived.nbytes = self.nbytes * len(records) // size if size else 0
        return derived


def join(batches: Sequence[Batch]) -> Batch:
    """Join several batches in order."""
    if len(batches) == 1:
        return batches[0]
    records: list[Record] = []
    origins: list[Origin] = []
    for batch in batches:
        records += batch.records
        for ack, count in batch.origins:
            if origins and origins[-1][0] is ack:
                origins[-1] = (ack, origins[-1][1] + count)
            else:
                origins.append((ack, count))
    joined = Batch(records, join_keys([batch.keys for batch in batches]))
    joined.origins = origins
    joined.nbytes = sum(batch.nbytes for batch in batches)
    return joined


def _select_origins(origins: Sequence[Origin], mask: Sequence[object], kept: int) -> Sequence[Origin]:
    if len(origins) == 1:
        return [(origins[0][0], kept)] if kept else []
    return count_origins(origins, list(map(bool, mask)))


def _slice_origins(origins: Sequence[Origin], start: int, stop: int) -> Sequence[Origin]:
    sliced: list[Origin] = []
    begin = 0
    for ack, count in origins:
        end = begin + count
        inside = min(stop, end) - max(start, begin)
        if inside > 0:
            sliced.append((ack, inside))
        begin = end
    return sliced


def _from_outcomes(batch: Batch, outcomes: Sequence[Outcome]) -> Batch:
    if len(outcomes) != len(batch.records):
        expected = len(batch.records)
        raise _MisuseError(f"`batch.outcomes` takes one outcome for each of {expected}, got {len(outcomes)}")
    records: list[Record] = []
    counts: list[int] = []
    failures: list[tuple[int, Failure]] = []
    dropped: list[int] = []
    reasons: list[str] = []
    fanned = False
    for index, outcome in enumerate(outcomes):
        if outcome is None or isinstance(outcome, Drop):
            dropped.append(index)
            reasons.append(outcome.reason if outcome is not None else FILTERED.reason)
            counts.append(0)
        elif isinstance(outcome, RecordError | TransientError):
            failures.append((index, outcome))
            counts.append(0)
        elif isinstance(outcome, list):
            if not outcome:
                dropped.append(index)
                reasons.append("empty list")
            records += outcome
            counts.append(len(outcome))
            fanned = True
        else:
            records.append(outcome)
            counts.append(1)
    if fanned:
        # a plain record among lists keeps its key; only the items of a list get `key/i`
        keys = _fan_keys(batch.keys, outcomes, counts)
    elif len(records) == len(outcomes):
        return batch.replace(records)
    else:
        keys = batch.keys.select(counts, len(records))
    derived = Batch(records, keys)
    derived.origins = count_origins(batch.origins, counts)
    derived.nbytes = batch.nbytes * len(records) // len(outcomes)
    if failures and (batch.failures or batch.dropped):
        raise _MisuseError(
            "`batch.outcomes` with failures must come first: later the indices mean other records"
        )
    derived.failures = failures or batch.failures
    if dropped:
        derived.dropped = (*batch.dropped, *_owned(batch.origins, dropped, reasons))
    else:
        derived.dropped = batch.dropped
    if fanned and any(isinstance(record, DeadItem) for record in records):
        return _without_dead_items(derived)
    return derived


def _without_dead_items(whole: Batch) -> Batch:
    """Return the batch without its dead items, which keep their keys and their share of the origins."""
    dead = [place for place, record in enumerate(whole.records) if isinstance(record, DeadItem)]
    gone = set(dead)
    derived = whole.take([place for place in range(len(whole.records)) if place not in gone])
    derived.failures, derived.dropped = whole.failures, whole.dropped
    derived.dead_items = items = whole.take(dead)
    items.failures = [(place, item.error) for place, item in enumerate(items.records)]
    items.records = [item.record for item in items.records]
    return derived


def _fan_keys(keys: Keys, outcomes: Sequence[Outcome], counts: Sequence[int]) -> Keys:
    if all(isinstance(outcome, list) or not count for outcome, count in zip(outcomes, counts, strict=True)):
        return keys.fan_out(counts)
    parts = [
        one.fan_out([count]) if isinstance(outcome, list) else one
        for index, (outcome, count) in enumerate(zip(outcomes, counts, strict=True))
        if count
        for one in (keys.slice(index, index + 1),)
    ]
    return join_keys(parts)


def _owned(
    origins: Sequence[Origin], dropped: Sequence[int], reasons: Sequence[str]
) -> list[tuple[Ack | None, str, int]]:
    """Return the acks of the records at these ascending indices, with counts by reason."""
    if len(origins) < 2:
        owner = origins[0][0] if origins else None
        return [(owner, reason, count) for reason, count in Counter(reasons).items()]
    counted: list[tuple[Ack | None, str, int]] = []
    place = stop = 0
    for ack, count in origins:
        begin, stop = place, stop + count
        while place < len(dropped) and dropped[place] < stop:
            place += 1
        counted += [(ack, reason, many) for reason, many in Counter(reasons[begin:place]).items()]
    return counted


def count_origins(origins: Sequence[Origin], counts: Sequence[int]) -> Sequence[Origin]:
    """Return the origins of what these records have become, given the number of each."""
    counted: list[Origin] = []
    start = 0
    for ack, count in origins:
        stop = start + count
        total = sum(counts[start:stop])
        if total:
            counted.append((ack, total))
        start = stop
    return counted
