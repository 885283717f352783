"""The number of examples of a property test: few while developing, many before a merge."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

__all__ = ["WITH_FIXTURES", "draw_once", "examples", "register_profiles"]

THOROUGH = 100
QUICK = 20

WITH_FIXTURES = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
"""To be suppressed by a property that uses a fixture: the list replaces that of the profile."""


def register_profiles() -> None:
    """Make `--hypothesis-profile=quick` and `thorough` known.

    Both draw the same examples each time, without a deadline, which a busy machine would miss.
    """
    settings.register_profile("thorough", settings.get_profile("ci"), max_examples=THOROUGH)
    settings.register_profile("quick", settings.get_profile("ci"), max_examples=QUICK)


def examples(thorough: int) -> int:
    """Number of examples of a test that has `thorough` in the thorough profile, and in others its share."""
    return max(2, thorough * settings.default.max_examples // THOROUGH)


@settings(max_examples=1, database=None)
@given(st.none())
def draw_once(_: None) -> None:
    """Draw an example, so that hypothesis registers its source of random numbers.

    After `gc.freeze` it would warn on Python 3.14, because the garbage collector finds no reference to it.
    """
