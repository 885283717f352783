"""Detect SQLite columns with values of several types.

The driver converts such a column to one type: 2.5 becomes "2.500000e+00" if there is a text, a text becomes
Base64 if there are bytes, and a long integer is rounded if there is a fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from engine.errors import FatalError

__all__ = ["check_kinds", "kinds_of"]

_EXACT: Final = 2**53
"""A float represents all integers up to this one."""

_LONG: Final = "long integer"
_CONVERTIBLE: Final = ({"integer", "real"}, {"integer", _LONG})


def kinds_of(column: str) -> str:
    """Return the SQL expression for the types of a column's values."""
    long = f"typeof({column}) = 'integer' AND {column} NOT BETWEEN -{_EXACT} AND {_EXACT}"
    return f"group_concat(DISTINCT CASE WHEN {long} THEN '{_LONG}' ELSE typeof({column}) END)"


def check_kinds(found: Mapping[str, str | None]) -> None:
    """Check the types of each column, as returned by the database.

    Raises:
        FatalError: the driver would change values.
    """
    for name, listed in found.items():
        kinds = set((listed or "").split(",")) - {"", "null"}
        if len(kinds) > 1 and not any(kinds <= one for one in _CONVERTIBLE):
            raise FatalError(
                f"the column {name!r} has values of several types ({', '.join(sorted(kinds))}), and the "
                "driver would change some: cast it in `query`",
                kind="schema",
            )
