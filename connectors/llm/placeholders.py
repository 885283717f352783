"""Placeholders that models use for missing values."""

from __future__ import annotations

from typing import Final

__all__ = ["says_nothing"]

_PLACEHOLDERS: Final = frozenset(
    {
        "", "-", "--", "?", "n/a", "na", "none", "null", "nil", "unknown", "unspecified", "missing", "tbd",
        "to be determined", "not available", "not applicable", "not found", "not given", "not known",
        "not mentioned", "not provided", "not specified", "not stated", "no information",
    }
)  # fmt: skip


def says_nothing(text: str) -> bool:
    """Return whether a text is "N/A", "unknown" or the like."""
    return text.strip().strip(" .[]()<>").casefold() in _PLACEHOLDERS
