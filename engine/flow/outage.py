"""Wait out an outage before records flow: while a component opens or a source lists its input."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from engine.contract.clock import Clock
from engine.contract.unplanned import escaped
from engine.errors import TransientError
from engine.flow.errors import as_run_error
from engine.flow.retry import NodeHealth, RetryPolicy, check_outage
from engine.flow.stats import NodeStats, Waiting

T = TypeVar("T")


class Outage:
    """Consecutive failures of one operation of a node.

    Args:
        what: the operation that fails, for the message.
    """

    def __init__(self, what: str, stats: NodeStats, policy: RetryPolicy, clock: Clock) -> None:
        self._what = what
        self._stats = stats
        self._policy = policy
        self._clock = clock
        self._health = NodeHealth()
        self._failures = 0

    async def through(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of an attempt, retrying during an outage.

        Raises:
            OutageError: it has failed for longer than the policy's limit.
            EngineError: it failed in a way that waiting cannot fix.
        """
        while True:
            try:
                return await attempt()
            except TransientError as error:
                await self.wait(error)
            except BaseException as error:
                raise as_run_error(self._stats.name, escaped(error)) from error

    def over(self) -> None:
        """Note progress: later failures are a new outage."""
        self._failures = 0
        self._health.succeeded()

    async def wait(self, error: TransientError) -> None:
        """Wait before the next attempt.

        Raises:
            OutageError: it has failed for longer than the policy's limit.
        """
        self._failures += 1
        what = f"not {self._what}"
        lasted = check_outage(what, self._stats, self._policy, self._health, self._clock, error)
        self._stats.retries += 1
        waiting = Waiting.RETRY if self._failures < self._policy.attempts else Waiting.OUTAGE
        with self._stats.waits(waiting, str(error)[:200]):
            await self._clock.sleep(self._policy.delay(self._failures, error.retry_after, lasted))
