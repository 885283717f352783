"""Retry decisions after failures; the caller waits."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.config.model import NodeOptions, OnError
from engine.contract.clock import Clock
from engine.errors import OutageError, TransientError
from engine.flow.stats import NodeStats


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempts and delays of a node's retries.

    Args:
        attempts: attempts at the unchanged batch, including the first.
        base: seconds; the wait after attempt n is random between 0 and `base * 2**(n - 1)`.
        cap: seconds; upper bound of every wait, except for a Retry-After.
        outage_limit: seconds without any success at the node after which the run stops.
        dead_letter_on_stall: when the attempts are used up and nothing succeeds, the records die at once
            instead of waiting out the outage, so that this node never delays its siblings.
        on_error: what happens to the record of an unplanned exception; None leaves it to the node.
        longest_hint: seconds; upper bound of a Retry-After.
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0
    outage_limit: float = 600.0
    dead_letter_on_stall: bool = False
    longest_hint: float = 120.0
    on_error: OnError | None = None

    @classmethod
    def of(cls, options: NodeOptions, *, outage_limit: float) -> RetryPolicy:
        """Return the policy that a node's options describe."""
        retry = options.retry
        stall = options.on_stall == "dead_letter"
        return cls(
            retry.attempts,
            retry.base,
            retry.cap,
            outage_limit,
            dead_letter_on_stall=stall,
            on_error=options.on_error,
        )

    @property
    def survives_errors(self) -> bool:
        """Whether an unplanned exception fails only its record."""
        return self.on_error in (OnError.DEAD_LETTER, OnError.DROP)

    def delay(self, attempt: int, retry_after: float | None, lasted: float = 0.0) -> float:
        """Return the seconds to wait after failed attempt number `attempt` (from 1).

        Args:
            retry_after: seconds that the service asked for; bounded by `outage_limit`.
            lasted: seconds since the last success at the node.
        """
        # imported late, since most runs have no failure
        from tenacity import RetryCallState, Retrying, wait_random_exponential

        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempt
        backoff = float(wait_random_exponential(multiplier=self.base, max=self.cap)(state))
        left = max(self.outage_limit - lasted, 0.0)
        return max(backoff, min(retry_after or 0.0, self.longest_hint, left))


@dataclass(slots=True)
class NodeHealth:
    """The last success of a node, shared by all its workers.

    It distinguishes a bad record from an outage: if others succeed meanwhile, the record is at fault.
    """

    successes: int = 0
    failing_since: float | None = None

    def succeeded(self) -> None:
        """Note a success."""
        self.successes += 1
        self.failing_since = None

    def lasted(self, now: float) -> float:
        """Return the seconds since the first failure after the last success; 0 without one."""
        return now - self.failing_since if self.failing_since is not None else 0.0

    def failed(self, now: float) -> float:
        """Note a failure and return the seconds since the last success."""
        if self.failing_since is None:
            self.failing_since = now
        return now - self.failing_since


def check_outage(
    what: str, stats: NodeStats, policy: RetryPolicy, health: NodeHealth, clock: Clock, error: TransientError
) -> float:
    """Note a failure at a node, and return the seconds since the last success there.

    Args:
        what: what the node could not do, for the message.

    Raises:
        OutageError: it has failed for longer than the policy's limit.
    """
    lasted = health.failed(clock.monotonic())
    if lasted >= policy.outage_limit:
        message = f"{stats.name!r} could {what} for {lasted:.0f} s; last answer: {error}"
        raise OutageError(message, node=stats.name) from error
    return lasted


@dataclass(frozen=True, slots=True)
class ComponentRetry:
    """The retry policy of a node for components that retry by themselves (`Context.retry`)."""

    policy: RetryPolicy
    stats: NodeStats
    clock: Clock
    health: NodeHealth = field(default_factory=NodeHealth)

    @property
    def attempts(self) -> int:
        """Total number of attempts, including the first."""
        return self.policy.attempts

    @property
    def outwaited(self) -> bool:
        """Whether an outage has lasted for the policy's limit."""
        return (
            self.health.failing_since is not None
            and self.health.lasted(self.clock.monotonic()) >= self.policy.outage_limit
        )

    def succeeded(self) -> None:
        """Note a success: an outage, if there was one, is over."""
        self.health.failing_since = None

    async def wait(self, attempt: int, error: TransientError) -> None:
        """Count a retry and back off, without showing the node as waiting."""
        self.stats.retries += 1
        now = self.clock.monotonic()
        if attempt >= self.policy.attempts:
            self.health.failed(now)  # from here on it is an outage
        lasted = self.health.lasted(now)
        delay = self.policy.delay(attempt, error.retry_after, lasted)
        if self.health.failing_since is not None:
            delay = min(delay, max(self.policy.outage_limit - lasted, 0.0))
        await self.clock.sleep(delay)
