"""Named fault points at which a process can be killed, for tests of recovery.

Off unless the environment variable `ODW_FAULT_POINT` is set when this module is imported. It names the place,
and the visit to it (counted from 1), at which the process sends itself a signal:

    ODW_FAULT_POINT=batch_written:3                   SIGKILL
    ODW_FAULT_POINT=batch_read:2:TERM,draining:1      first SIGTERM, which drains; then SIGKILL

docs/reliability.md describes the places.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "ODW_FAULT_POINT"

FAULT_POINTS = (
    "splits_listed",
    "splits_stored",
    "batch_read",
    "packed",
    "model_paid",
    "batch_written",
    "ledger_committing",
    "ledger_committed",
    "dead_letter_stored",
    "dead_letter_forwarded",
    "draining",
    "books_closed",
)
"""The places in a run, in the order in which it reaches them."""

SERVICE_FAULT_POINTS = (
    "request_accepted",
    "rows_committing",
    "rows_committed",
    "tables_compacting",
)
"""The places in the ingest service."""

Reached = Callable[[str], None]


def armed(text: str, strike: Callable[[signal.Signals], None]) -> Reached:
    """Return the `reached` function for this value of the variable; it calls `strike` with the signal.

    Raises:
        ValueError: the text is not `name:count[:SIGNAL]`, separated by commas, or has an unknown name.
    """
    if not text:
        return _off
    places = (*FAULT_POINTS, *SERVICE_FAULT_POINTS)
    wanted: dict[tuple[str, int], signal.Signals] = {}
    for item in text.split(","):
        name, _, rest = item.strip().partition(":")
        count, _, number = rest.partition(":")
        if name not in places or not count.isdecimal() or int(count) < 1:
            raise ValueError(f"{VARIABLE}: {item!r} is not <name>:<count>[:SIGNAL] with one of {places}")
        try:
            wanted[name, int(count)] = signal.Signals[f"SIG{number or 'KILL'}"]
        except KeyError:
            raise ValueError(f"{VARIABLE}: unknown signal {number!r}") from None
    times: Counter[str] = Counter()

    def count_and_strike(name: str) -> None:
        times[name] += 1
        struck = wanted.get((name, times[name]))
        if struck is not None:
            strike(struck)

    return count_and_strike


def _off(_name: str) -> None:
    """Do nothing, the usual case."""


def _strike(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


_point: Reached = armed(os.environ.get(VARIABLE, ""), _strike)


def reached(name: str) -> None:
    """Report that the process has reached one of the places."""
    _point(name)


def observe(point: Reached) -> None:
    """Call `point` at each place from now on, instead of obeying the variable."""
    global _point
    _point = point
