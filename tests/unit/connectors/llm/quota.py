"""A provider's quota in virtual time, and callers that keep to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from connectors.llm.gate import Gate
from engine.testing import ScriptedClock

_STEPS = 8  # of the loop until all that can go on has done so

__all__ = ["Provider", "Refill", "run_callers"]


@dataclass
class Refill:
    """A limit that fills continuously; `burst` minutes' worth may be saved up."""

    per_minute: float
    burst: float = 1.0
    at: float = 0.0
    level: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.per_minute * self.burst

    def refill(self, now: float) -> None:
        gained = (now - self.at) * self.per_minute / 60
        self.level, self.at = min(self.per_minute * self.burst, self.level + gained), now

    def headers(self, kind: str) -> dict[str, str]:
        whole = self.per_minute * self.burst
        return {
            f"x-ratelimit-limit-{kind}": f"{self.per_minute:g}",
            f"x-ratelimit-remaining-{kind}": f"{max(0, int(self.level))}",
            f"x-ratelimit-reset-{kind}": f"{(whole - self.level) / self.per_minute * 60:.3f}s",
        }


@dataclass
class Provider:
    """Takes a call when both limits have room for it. `tells`: its answers say how much is left."""

    clock: ScriptedClock
    requests: Refill
    tokens: Refill
    tells: bool = True
    done: int = 0
    refused: int = 0
    used: float = 0.0
    moments: list[tuple[float, float]] = field(default_factory=list)

    def ask(self, tokens: float) -> tuple[bool, Mapping[str, str]]:
        now = self.clock.monotonic()
        for one in (self.requests, self.tokens):
            one.refill(now)
        accepted = self.requests.level >= 1 and self.tokens.level >= tokens
        if accepted:
            self.requests.level -= 1
            self.tokens.level -= tokens
            self.done += 1
            self.used += tokens
            self.moments.append((now, tokens))
        else:
            self.refused += 1
        told = {**self.requests.headers("requests"), **self.tokens.headers("tokens")} if self.tells else {}
        return accepted, told

    def used_between(self, start: float, end: float) -> float:
        return sum(tokens for moment, tokens in self.moments if start <= moment < end)


async def run_callers(
    provider: Provider,
    gates: list[Gate],
    *,
    until: float,
    in_flight: int,
    change: Mapping[float, float] | None = None,
    seed: int = 1,
) -> None:
    """So many calls at once for each gate, of 0.3 to 8 s, of some 300 tokens estimated within a fifth.

    `change` says from which second on the token limit is how much a minute.
    """
    clock, random, changes = provider.clock, Random(seed), sorted((change or {}).items())

    async def caller(gate: Gate) -> None:
        while clock.monotonic() < until:
            used = random.uniform(200, 400)
            estimate = used * random.uniform(0.8, 1.2)
            async with gate.call(estimate) as passing:
                mark, sent = gate.mark(), clock.monotonic()
                accepted, told = provider.ask(used)
                if accepted:
                    await clock.sleep(random.uniform(0.3, 8.0))
                    passing.used = used
                    gate.hear(told, mark)
                    gate.succeeded(clock.monotonic() - sent)
                else:
                    passing.used = 0.0
                    gate.hear(told, mark)
                    gate.throttled(None)

    async with anyio.create_task_group() as group:
        for gate in gates:
            for _ in range(in_flight):
                group.start_soon(caller, gate)
        await _advance(group, clock, until, changes, provider)


async def _advance(
    group: TaskGroup,
    clock: ScriptedClock,
    until: float,
    changes: list[tuple[float, float]],
    provider: Provider,
) -> None:
    """Move the clock from one sleeper to the next, until it is over."""
    while True:
        for _ in range(_STEPS):
            await anyio.lowlevel.checkpoint()
        now, following = clock.monotonic(), clock.next_wake()
        if following is None or now >= until:
            group.cancel_scope.cancel()
            return
        if changes and changes[0][0] <= now:
            provider.tokens.refill(now)
            provider.tokens.per_minute = changes.pop(0)[1]
            provider.tokens.level = min(
                provider.tokens.level, provider.tokens.per_minute * provider.tokens.burst
            )
        clock.advance(max(0.0, following - now))
