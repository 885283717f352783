"""Models in order of preference: a later one answers while those before it are unavailable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from connectors.llm.asking import Asker, Fate, OnHit, OnUsage
from connectors.llm.calling import OnCount
from connectors.llm.client import EndpointError
from connectors.llm.documents import Document
from connectors.llm.pricing import Usage
from engine.errors import TransientError

FIRST_PAUSE: Final = 30.0
"""Seconds for which an unavailable model is skipped; doubled each time in a row."""

_MAX_PAUSE: Final = 600.0


@dataclass(slots=True)
class _Member:
    """A model of the chain. `down`: its last call failed. `away_until`: it is skipped until then."""

    asker: Asker
    down: bool = False
    failures: int = 0
    away_until: float = 0.0

    def begin(self, now: float) -> None:
        """Begin a call. After a pause, only one batch asks; the others wait for its outcome."""
        if self.failures and self.away_until <= now:
            self.down = False
            self._pass_over(now)

    def failed(self, now: float) -> None:
        """Record that the model is unavailable; several batches may report the same outage."""
        self.down = True
        if self.away_until <= now:
            self._pass_over(now)

    def succeeded(self) -> None:
        """Record a successful call: the model is available."""
        self.down, self.failures, self.away_until = False, 0, 0.0

    def _pass_over(self, now: float) -> None:
        self.away_until = now + min(FIRST_PAUSE * 2.0 ** min(self.failures, 10), _MAX_PAUSE)
        self.failures += 1


class ModelChain:
    """Asks the first model that is available.

    A model is unavailable when its endpoint cannot be reached, breaks off, answers 5xx, does not know the
    model, or refuses the key or the account. If one asks for a delay (429, `Retry-After`), the chain waits.
    Answers that any of the models gave before are in the journal and are not requested again.

    Args:
        askers: at least one, in order of preference.
        clock: monotonic time in seconds.
        on_count: called with `unavailable[MODEL]` for each batch that a model could not take.
    """

    def __init__(self, askers: Sequence[Asker], clock: Callable[[], float], on_count: OnCount) -> None:
        self._members = [_Member(asker) for asker in askers]
        if len(self._members) > 1:
            for member in self._members:
                member.asker = replace(member.asker, given_up=partial(self._is_given_up, member))
        self._clock = clock
        self._on_count = on_count

    async def ask(self, documents: Sequence[Document], on_usage: OnUsage, on_hit: OnHit) -> list[Fate]:
        """Return the outcome of each document, in order.

        Raises:
            FatalError: no model is available for a permanent reason, or the budget does not suffice.
            StateError: the journal cannot be used.
        """
        if len(self._members) == 1:
            return await self._members[0].asker.ask(documents, on_usage, on_hit)
        fates: dict[int, Fate] = {}
        error: EndpointError | None = None
        for member in self._members:
            await _look_up(member.asker, documents, fates, on_hit)
        for member, passed_over in self._in_turn():
            places = [place for place in range(len(documents)) if _is_open(fates.get(place))]
            if passed_over:  # ask it anyway before the run ends because no model is left
                places = [place for place in places if place not in fates]
            if not places:
                break
            member.begin(self._clock())
            try:
                found = await _ask_some(member.asker, documents, places, on_usage, on_hit)
            except EndpointError as failure:
                error = error or failure
                self._failed(member)
                # calls in flight at that time have been paid for
                await _look_up(member.asker, documents, fates, on_hit)
                continue
            fates |= found
            if any(_is_open(fate) for fate in found.values()):
                self._failed(member)
            else:
                member.succeeded()
        if error is not None and len(fates) < len(documents):
            raise error
        return [fates[place] for place in range(len(documents))]

    async def is_answering(self) -> bool:
        """Return whether any of the models is answering."""
        for member in self._members:
            if await member.asker.chat.is_answering():
                return True
        return False

    def _in_turn(self) -> list[tuple[_Member, bool]]:
        """Return the available members, then the others as a last resort."""
        now = self._clock()
        turns = [(one, one.away_until > now) for one in self._members]
        if all(away for _, away in turns):
            return [(one, False) for one in self._members]
        return sorted(turns, key=lambda turn: turn[1])

    def _is_given_up(self, member: _Member) -> bool:
        """Return whether a call waiting for a model should go to another one."""
        return member.down and not all(one.down for one in self._members)

    def _failed(self, member: _Member) -> None:
        member.failed(self._clock())
        self._on_count(f"unavailable[{member.asker.questions.model}]")


def _is_open(fate: Fate | None) -> bool:
    """Return whether another model may answer now."""
    return fate is None or (isinstance(fate, TransientError) and not fate.throttled)


async def _look_up(
    asker: Asker, documents: Sequence[Document], fates: dict[int, Fate], on_hit: OnHit
) -> None:
    """Add the fates that the journal has from this model."""
    places = [place for place in range(len(documents)) if _is_open(fates.get(place))]
    known = await asker.known([documents[place] for place in places])
    for index, (fate, lost) in known.items():
        fates[places[index]] = fate
        on_hit(places[index], lost)


async def _ask_some(
    asker: Asker, documents: Sequence[Document], places: Sequence[int], on_usage: OnUsage, on_hit: OnHit
) -> dict[int, Fate]:
    def book(indices: Sequence[int], usage: Usage) -> None:
        on_usage([places[index] for index in indices], usage)

    def hit(index: int, lost: Usage) -> None:
        on_hit(places[index], lost)

    found = await asker.ask([documents[place] for place in places], book, hit)
    return dict(zip(places, found, strict=True))
