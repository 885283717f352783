"""Shared limits as SQL. Every function here runs inside a transaction of `Database`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from engine.contract.allowances import Draw
from engine.state.connection import Connection

_CLOCK_JUMP: Final = 60.0
"""Tolerated lag of the clock behind the latest draw, in seconds: machines differ by less, a clock that was
set back by more."""

_KEPT: Final = 400 * 86_400.0  # seconds after the last draw until a limit is deleted

_UPSERT: Final = """
INSERT INTO allowances (name, taken, drawn_at) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET taken = excluded.taken, drawn_at = excluded.drawn_at
"""


def draw(connection: Connection, draws: Sequence[Draw], now: float) -> list[float]:
    """Take as much as is available from each; `now` is in seconds since 1970."""
    granted = dict.fromkeys((one.name for one in draws), 0.0)
    for one in sorted(draws, key=lambda one: one.name):  # a fixed order, to avoid deadlocks
        granted[one.name] = _draw(connection, one, now)
    return [granted[one.name] for one in draws]


def _draw(connection: Connection, one: Draw, now: float) -> float:
    connection.hold_run(f"allowance/{one.name}", alone=True)
    row = connection.execute("SELECT taken, drawn_at FROM allowances WHERE name = ?", (one.name,)).fetchone()
    if row is None:
        connection.execute("DELETE FROM allowances WHERE drawn_at < ?", (now - _KEPT,))
        taken, before = 0.0, now
    else:
        taken, before = row["taken"], row["drawn_at"]
    taken = max(0.0, taken - one.rate * max(0.0, now - before))
    room = one.amount if one.force else max(0.0, one.capacity - taken)
    granted = min(one.amount, room)
    at = before if now < before <= now + _CLOCK_JUMP else now
    connection.execute(_UPSERT, (one.name, max(0.0, taken + granted), at))
    return granted
