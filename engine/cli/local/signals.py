"""Signals: the first drains, the second cancels, a third ends the process at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import anyio

from engine.execution.session import Session


async def stop_signals() -> int:
    """Wait for a stopping signal and return its number."""
    if sys.platform == "win32":
        await anyio.sleep_forever()  # event loops there do not support signal handlers; Ctrl-C cancels
    with anyio.open_signal_receiver(*stopping_signals()) as received:
        async for number in received:
            return number
    raise AssertionError("signals never end")


def stopping_signals() -> list[signal.Signals]:
    """Return the signals that stop; SIGHUP (a closed terminal) is one unless `nohup` ignores it."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class SignalWatch:
    """Turns SIGINT, SIGTERM and SIGHUP into `drain` and `cancel`.

    `number` is the signal that cancelled, 0 before.
    """

    def __init__(self, session: Session, say: Callable[[str], None]) -> None:
        self._session = session
        self._say = say
        self.number = 0

    async def watch(self) -> None:
        """Listen until cancelled."""
        if sys.platform == "win32":
            # event loops there do not support signal handlers; Ctrl-C cancels at once
            await anyio.sleep_forever()
        with anyio.open_signal_receiver(*stopping_signals()) as received:
            async for number in received:
                self._handle(number)

    def _handle(self, number: int) -> None:
        if self.number:
            os._exit(128 + number)
        if self._session.draining and number == getattr(signal, "SIGHUP", None):
            return  # the shell forwards a signal that the kernel has already sent
        if self._session.draining:
            self.number = number
            self._say("stopping at once; a resume re-reads what was not delivered")
            self._session.cancel()
        else:
            again = "press Ctrl-C again" if number == signal.SIGINT else "send the signal again"
            self._say(f"draining: {again} to stop at once")
            self._session.drain()
