"""Groups of objects for one batch: their memory, and whether their failures are their own fault."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import anyio

from connectors.objects.fetching import ObjectFetcher, Outcome, Suspect
from connectors.objects.listed import ListedObject
from connectors.objects.media_types import by_suffix, is_text
from engine.contract.types import Reservation

GROUP_OBJECTS = 16
GROUP_BYTES = 256 * 1024
"""Limits of a group: objects and bytes of weight; a larger object forms its own group."""

RECORD_OVERHEAD = 1024
"""Memory of a record in addition to its content, in bytes."""


class PlannedGroup(NamedTuple):
    """Consecutive objects of a split from index `start`, with their total memory `nbytes`."""

    start: int
    objects: Sequence[ListedObject]
    nbytes: int


def plan_groups(objects: Sequence[ListedObject], start: int, max_object_bytes: int) -> Iterator[PlannedGroup]:
    """Yield the objects from index `start` on in groups, based on the listing alone."""
    while start < len(objects):
        stop, total = start, 0
        while stop < len(objects) and stop - start < GROUP_OBJECTS:
            nbytes = weight(objects[stop], max_object_bytes)
            if stop > start and total + nbytes > GROUP_BYTES:
                break
            total += nbytes
            stop += 1
        yield PlannedGroup(start, objects[start:stop], total)
        start = stop


def weight(found: ListedObject, max_object_bytes: int) -> int:
    """Return the peak memory of an object in bytes: raw and decoded content together."""
    if found.size > max_object_bytes:
        return RECORD_OVERHEAD  # it will not be read
    size = found.size if found.size >= 0 else max_object_bytes  # unknown
    # a str takes two bytes per character once one is beyond Latin-1; base64 takes four bytes for three
    factor = 3.0 if is_text(by_suffix(found.key)) else 2.4
    return int(size * factor) + RECORD_OVERHEAD


@dataclass(slots=True, eq=False)
class Group:
    """Objects for one batch: their position in the split, and the bytes reserved for them.

    `outcomes` has the results of the objects, in the same order; `width` objects are read concurrently, and
    all of them need `nbytes`.
    """

    start: int
    objects: Sequence[ListedObject]
    reservation: Reservation
    outcomes: list[Outcome] = field(default_factory=list)
    width: int = sys.maxsize
    nbytes: int = 0

    @property
    def suspects(self) -> list[Suspect]:
        """The failures that may be the objects' fault or an outage."""
        return [one for one in self.outcomes if isinstance(one, Suspect)]

    @property
    def failed(self) -> list[str]:
        """The keys of the failed objects."""
        pairs = zip(self.objects, self.outcomes, strict=True)
        return [found.key for found, outcome in pairs if isinstance(outcome, Suspect)]

    @property
    def lost(self) -> bool:
        """True if no object could be read, and all attempts have been used."""
        return all(isinstance(one, Suspect) and one.exhausted for one in self.outcomes)


async def judged(
    groups: AsyncIterable[Group], fetcher: ObjectFetcher
) -> AsyncGenerator[tuple[Group, bool], None]:
    """Yield the groups in order, each with whether its failures are its objects' own fault.

    Groups of which nothing could be read are held back until something after them is read, or until the end.
    They have no content, so their reservation is released meanwhile.
    """
    held: list[Group] = []
    async for group in groups:
        held.append(group)
        if group.lost and not fetcher.cleared([one for each in held for one in each.suspects]):
            group.reservation.resize(0)
            continue
        for verdict in await _verdicts(held, fetcher):
            yield verdict
        held = []
    for verdict in await _verdicts(held, fetcher):
        yield verdict


async def _verdicts(groups: Sequence[Group], fetcher: ObjectFetcher) -> list[tuple[Group, bool]]:
    for each in groups:
        await _retry(each, fetcher, fetcher.is_unlucky)
    cleared = await _others_get_through(groups, fetcher)
    found = []
    for each in groups:
        # an outage may have failed some before others got through, and another one may have begun
        doubtful = cleared and await _retry(each, fetcher, fetcher.is_doubtful)
        found.append((each, cleared and (not doubtful or await _others_get_through([each], fetcher))))
    return found


async def _retry(group: Group, fetcher: ObjectFetcher, which: Callable[[Suspect], bool]) -> bool:
    """Retry some objects that could not be read; return whether any of them failed again."""
    doubtful = [
        (place, outcome)
        for place, outcome in enumerate(group.outcomes)
        if isinstance(outcome, Suspect) and which(outcome)
    ]
    if not doubtful:
        return False
    group.reservation.resize(group.nbytes)  # a lost group has released its bytes

    async def again(place: int, failed: Suspect) -> None:
        fetch = partial(fetcher.fetch, group.objects[place])
        group.outcomes[place] = await fetcher.again(failed, fetch)

    async with anyio.create_task_group() as tasks:
        for place, failed in doubtful:
            tasks.start_soon(again, place, failed)
    return any(isinstance(group.outcomes[place], Suspect) for place, _ in doubtful)


async def _others_get_through(groups: Sequence[Group], fetcher: ObjectFetcher) -> bool:
    suspects = [one for each in groups for one in each.suspects]
    if not all(one.exhausted for one in suspects):
        return False
    return fetcher.cleared(suspects) or await fetcher.others_get_through(
        {key for each in groups for key in each.failed}
    )
