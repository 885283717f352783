"""Names and formatting of a sample's figures."""

from __future__ import annotations

WALL = "wall"
CPU = "cpu"
PEAK_RSS = "peak_rss"
OWN_PEAK_RSS = "own_peak_rss"
FIRST_OUTPUT = "first_output"
RATE = "rate"
ACTIONS = "actions"
FORECAST = "forecast"
OFF = "off"
RIGHT = "right"
PER_RECORD = "per_record"

_COUNTS = frozenset({ACTIONS, FORECAST})
_SHARES = frozenset({OFF, RIGHT})
_BYTES = frozenset({PEAK_RSS, OWN_PEAK_RSS})
_MEGA = 1_000_000


def render(figure: str, value: float, unit: str) -> str:
    """Format a figure: bytes in MB, rates in units a second, counts and shares unchanged, others as times."""
    if figure in _COUNTS:
        return f"{value:,.0f}"
    if figure in _SHARES:
        return f"{value:.1%}"
    if figure == PER_RECORD:
        return f"{value * _MEGA:.3f} µs"
    if figure in _BYTES:
        return f"{value / _MEGA:.1f} MB"
    if figure == RATE:
        return f"{value:,.0f} {unit}/s"
    return render_seconds(value)


def render_seconds(seconds: float) -> str:
    """Format a time: in seconds from one second up, else in milliseconds."""
    if abs(seconds) >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1_000:.1f} ms" if abs(seconds) >= 0.01 else f"{seconds * 1_000:.3f} ms"
