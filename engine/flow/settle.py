"""Settle the outcomes of a transform by comparing its input batch with the derived one.

Nothing is settled before the transform has returned, so calling it again counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from engine.contract.acks import Ack, Origin
from engine.contract.batch import FILTERED, Batch, count_origins


class DropLabels(dict[str, str]):
    """Cached labels `node: reason` of drops in tallies."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def __missing__(self, reason: str) -> str:
        label = self[reason] = f"{self._node}: {reason}"
        return label


def settle_written(origins: Sequence[Origin], *, confirmed: bool) -> None:
    """Settle records as written."""
    for ack, count in origins:
        ack.written(count, confirmed=confirmed)


def settle_dropped(origins: Sequence[Origin], reason: str) -> None:
    """Settle records as dropped."""
    for ack, count in origins:
        ack.dropped(count, reason)


def settle_derived(given: Batch, derived: Batch, failed: Sequence[int], labels: DropLabels) -> int:
    """Settle dropped records, count forked ones, and return the number dropped.

    `failed`: ascending indices in `given` of records that are settled elsewhere, like dead items.
    """
    if derived.origins is given.origins and not failed:
        return 0
    if derived.dead_items is not None:
        return _settle(given, derived, failed, labels)
    dropped = derived.dropped
    if len(given.origins) == 1 and len(dropped) == 1 and not failed:
        # nearly every filter: one source batch, one reason, nothing forked
        ((_, reason, count),) = dropped
        if len(given.records) - len(derived.records) == count:
            given.origins[0][0].dropped(count, labels[reason])
            return count
    return _settle(given, derived, failed, labels)


def _settle(given: Batch, derived: Batch, failed: Sequence[int], labels: DropLabels) -> int:
    left = _by_ack(given.origins)
    drops = [(ack, reason, count) for ack, reason, count in derived.dropped if ack in left]
    dropped = ((ack, count) for ack, _, count in drops)
    dead = derived.dead_items.origins if derived.dead_items is not None else ()
    for ack, count in chain(derived.origins, dead, dropped, _origins_at(given.origins, failed)):
        if ack in left:
            left[ack] -= count
    for ack, count in left.items():
        if count < 0:
            ack.fork(-count)
        elif count:
            drops.append((ack, FILTERED.reason, count))  # left out without a reason
    for ack, reason, count in drops:
        ack.dropped(count, labels[reason])
    return sum(count for _, _, count in drops)


def _by_ack(origins: Iterable[Origin]) -> dict[Ack, int]:
    counts: dict[Ack, int] = {}
    for ack, count in origins:
        counts[ack] = counts.get(ack, 0) + count
    return counts


def _origins_at(origins: Sequence[Origin], wanted: Sequence[int]) -> Sequence[Origin]:
    marks = [0] * sum(count for _, count in origins)
    for index in wanted:
        marks[index] = 1
    return count_origins(origins, marks)
