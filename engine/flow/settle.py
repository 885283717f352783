"""Settling what a transform did, by comparing the batch it was given with the one it derived.

Because nothing is settled before the transform has returned, calling it again counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.acks import Ack, Origin
from engine.batch import FILTERED, Batch

__all__ = ["settle_derived", "settle_dropped", "settle_written"]


def settle_written(origins: Sequence[Origin], *, confirmed: bool) -> None:
    """The last sink has taken these records."""
    for ack, count in origins:
        ack.written(count, confirmed=confirmed)


def settle_dropped(origins: Sequence[Origin], reason: str) -> None:
    """These records go nowhere, on purpose."""
    for ack, count in origins:
        ack.dropped(count, reason)


def settle_derived(given: Batch, derived: Batch, failed: Sequence[int], node: str) -> int:
    """Settle what was dropped and account for what was forked; returns how many were dropped.

    `failed` are the ascending indices in `given` of records that are settled elsewhere.
    """
    if derived.origins is given.origins and not failed:
        return 0
    reasons = derived.drops
    if len(given.origins) == 1 and not failed and reasons is not None and len(reasons) == 1:
        # nearly every filter: one source batch, one reason, nothing forked
        ((reason, dropped),) = reasons.items()
        if len(given.records) - len(derived.records) == dropped:
            given.origins[0][0].dropped(dropped, f"{node}: {reason}")
            return dropped
    return _settle(given, derived, failed, dict(reasons or {}), node)


def _settle(given: Batch, derived: Batch, failed: Sequence[int], reasons: dict[str, int], node: str) -> int:
    before = _by_ack(given.origins)
    after = _by_ack(derived.origins)
    lost = _by_ack(_origins_at(given.origins, failed)) if failed else {}
    net = {ack: count - after.get(ack, 0) - lost.get(ack, 0) for ack, count in before.items()}
    # drops that a fan-out of the same ack hides in its net change: which ack they belong to is not known,
    # so they go where there is room, and the sums are right
    hidden = sum(reasons.values()) - sum(count for count in net.values() if count > 0)
    dropped_in_all = 0
    for ack, change in net.items():
        dropped = max(change, 0)
        if hidden > 0:
            extra = min(hidden, before[ack] - lost.get(ack, 0) - dropped)
            dropped, hidden = dropped + extra, hidden - extra
        if dropped > change:
            ack.fork(dropped - change)
        if dropped:
            _drop(ack, dropped, reasons, node)
            dropped_in_all += dropped
    return dropped_in_all


def _drop(ack: Ack, count: int, reasons: dict[str, int], node: str) -> None:
    left = count
    for reason in list(reasons):
        part = min(left, reasons[reason])
        reasons[reason] -= part
        if not reasons[reason]:
            del reasons[reason]
        ack.dropped(part, f"{node}: {reason}")
        left -= part
        if not left:
            return
    ack.dropped(left, f"{node}: {FILTERED.reason}")


def _by_ack(origins: Iterable[Origin]) -> dict[Ack, int]:
    counts: dict[Ack, int] = {}
    for ack, count in origins:
        counts[ack] = counts.get(ack, 0) + count
    return counts


def _origins_at(origins: Sequence[Origin], wanted: Sequence[int]) -> list[Origin]:
    found: list[Origin] = []
    start = position = 0
    for ack, count in origins:
        stop = start + count
        inside = 0
        while position < len(wanted) and wanted[position] < stop:
            inside += 1
            position += 1
        if inside:
            found.append((ack, inside))
        start = stop
    return found
