"""Divide a batch between the nodes that read the branches of a router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

from engine.contract.batch import Batch


def divide(batch: Batch, readers: Sequence[Sequence[str]], unread: str) -> list[Batch]:
    """Return the part of each reader, in order, and account for all records.

    A record that goes to several readers is forked; one that goes to none is dropped under `unread`.

    Args:
        batch: the output of a router, with `branches`.
        readers: the branches of each reader; a reader without any receives every record.
    """
    assert batch.branches is not None
    masks = [_mask(batch, names, batch.branches) for names in readers]
    times = list(map(sum, zip(*masks, strict=True)))
    if any(count != 1 for count in times):
        _settle(batch, times, unread)
    return [_part(batch, mask) for mask in masks]


def _mask(batch: Batch, names: Sequence[str], branches: Mapping[str, Sequence[object]]) -> list[bool]:
    if not names:
        return [True] * len(batch)
    chosen = [branches.get(name, repeat(False, len(batch))) for name in names]
    return [any(marks) for marks in zip(*chosen, strict=True)]


def _settle(batch: Batch, times: Sequence[int], unread: str) -> None:
    start = 0
    for ack, count in list(batch.origins):
        own = times[start : start + count]
        start += count
        more = sum(many - 1 for many in own if many > 1)
        none = own.count(0)
        if more:
            ack.fork(more)
        if none:
            ack.dropped(none, unread)


def _part(batch: Batch, mask: Sequence[bool]) -> Batch:
    part = batch.select(mask)
    if part is batch:
        return batch.replace(batch.records)  # without the branches, which later nodes do not use
    part.dropped = ()  # these records are not dropped but sent elsewhere
    return part
