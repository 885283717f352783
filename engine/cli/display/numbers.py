"""Format numbers and sizes."""

from __future__ import annotations

from collections import deque

LEAST_USD = 0.00005
"""Smallest sum that is not shown as 0.0000."""

_WINDOW = 5.0  # seconds over which a rate is averaged


def count(number: float) -> str:
    """Format a count: 1234567 → 1,234,567."""
    return f"{round(number):,}"


def counted(number: int, noun: str) -> str:
    """Format a count with its noun: 1 → 1 node, 2 → 2 nodes."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def rate(per_second: float) -> str:
    """Format records per second in at most six characters."""
    if per_second < 10:
        return f"{per_second:.1f}"
    if per_second < 100_000:
        return f"{per_second:,.0f}"
    return f"{per_second / 1000:,.0f}k" if per_second < 1e8 else f"{per_second / 1e6:,.0f}M"


def size(nbytes: float) -> str:
    """Format bytes in powers of 1024, in at most six characters: 1536 → 1.5 K."""
    for unit in ("B", "K", "M", "G"):
        if nbytes < 999.5 or unit == "G":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} {unit}" if nbytes >= 9.95 or unit == "B" else f"{nbytes:.1f} {unit}"


def duration(seconds: float) -> str:
    """Format a duration: 3.21 s, 41.2 s, 2:05, 1:02:05."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Rate:
    """The growth rate of a counter over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now: float, value: int) -> float:
        """Add a sample (`now` in seconds) and return the growth per second; 0 before the second one."""
        self._samples.append((now, value))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        then, before = self._samples[0]
        elapsed = now - then
        return max(0.0, (value - before) / elapsed) if elapsed > 0 else 0.0
