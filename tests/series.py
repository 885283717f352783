"""Select the parameters of a kind for the default run; the others belong to the series."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["few"]


def few(values: Iterable[Any], keep: int, *, several: bool = False) -> list[Any]:
    """Return all values for `parametrize`; all but `keep`, spread evenly, are marked as series.

    Args:
        several: each value is a tuple of values for several parameters.
    """
    every = list(values)
    kept = {place * len(every) // keep for place in range(keep)}
    return [
        value if place in kept else pytest.param(*(value if several else (value,)), marks=pytest.mark.series)
        for place, value in enumerate(every)
    ]
