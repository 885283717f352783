"""Kill the ingest service during a run's attempts, and start it again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Self

from tests.reliability.harness.blows import ServiceKill
from tests.reliability.harness.children import LOOK_EVERY, Child, Service

__all__ = ["ServiceStriker"]


class ServiceStriker:
    """Strikes in a thread for as long as the block runs; what is left undone by then is not done.

    Args:
        service: running, and waiting to die at the first kill's point if that has one.
        pace: how much slower this machine is than one that does nothing else.
        engine: the process that uses the service right now, if any.
        begun: whether there is anything to do for the service yet.

    Attributes:
        struck: the places of the kills that came to pass while an engine was running.
    """

    def __init__(
        self,
        service: Service,
        kills: Sequence[ServiceKill],
        *,
        pace: float = 1.0,
        engine: Callable[[], Child | None] = lambda: None,
        begun: Callable[[], bool] = lambda: True,
    ) -> None:
        self.struck: list[str] = []
        self._service = service
        self._kills = kills
        self._pace = pace
        self._engine = engine
        self._begun = begun
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="service-kills")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.wait()
        if self._service.died(0):  # by what came last
            self._service.start()

    def wait(self) -> None:
        """Until every kill is done, or the block has ended."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            for kill, following in pairwise([*self._kills, ServiceKill()]):
                if not self._strike(kill):
                    return
                self._service.kill()  # the process may be dead already
                time.sleep(kill.down)
                self._service.start(following.point)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: `wait` raises it
            self._failure = error

    def _strike(self, kill: ServiceKill) -> bool:
        """Have it struck; False when the block has ended before."""
        if kill.point:
            while not self._service.died(LOOK_EVERY):
                if self._over.is_set():
                    return False
        else:
            while not self._begun():
                if self._over.wait(LOOK_EVERY):
                    return False
            if self._over.wait(kill.after * self._pace):
                return False
            self._service.kill()
        engine = self._engine()
        if engine is None or engine.wait(0) is None:
            self.struck.append(kill.place)
        if engine is not None and kill.takes_engine:
            engine.send(signal.SIGKILL)
        return True
