"""Groups of objects for one batch, and whether their failures are their own."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass, field

from connectors.objects.fetching import ObjectFetcher, Outcome, Suspect
from connectors.objects.listed import ListedObject
from engine.contract.types import Reservation

__all__ = ["Group", "judged"]


@dataclass(slots=True, eq=False)
class Group:
    """Objects that become one batch: where they stand in the split, and the bytes reserved for them.

    `outcomes` are what became of the objects, in the same order; so many objects as
    `width` are read side by side.
    """

    start: int
    objects: Sequence[ListedObject]
    reservation: Reservation
    outcomes: list[Outcome] = field(default_factory=list)
    width: int = sys.maxsize

    @property
    def suspects(self) -> list[Suspect]:
        """The failures that may be the objects' own or everybody's."""
        return [one for one in self.outcomes if isinstance(one, Suspect)]

    @property
    def lost(self) -> bool:
        """True when none of the objects could be read, and all have had their tries."""
        return all(isinstance(one, Suspect) and one.exhausted for one in self.outcomes)


async def judged(
    groups: AsyncIterable[Group], fetcher: ObjectFetcher
) -> AsyncGenerator[tuple[Group, bool], None]:
    """The groups in order, each with whether its failures are those of its objects alone.

    Groups of which nothing could be read are held back until something after them was read, or to the end:
    they have no content, so what they have reserved is given back meanwhile.
    """
    held: list[Group] = []
    async for group in groups:
        held.append(group)
        cleared = fetcher.cleared([one for each in held for one in each.suspects])
        if not cleared and group.lost:
            group.reservation.resize(0)
            continue
        cleared = cleared or await _others_get_through(held, fetcher)
        for each in held:
            yield each, cleared
        held = []
    if held:
        cleared = await _others_get_through(held, fetcher)
        for each in held:
            yield each, cleared


async def _others_get_through(groups: Sequence[Group], fetcher: ObjectFetcher) -> bool:
    if not all(one.exhausted for each in groups for one in each.suspects):
        return False
    return await fetcher.others_get_through({found.key for each in groups for found in each.objects})
