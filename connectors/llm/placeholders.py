"""Words by which models say that a document does not state something."""

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
    """True for "N/A", "unknown" and their like."""
    return text.strip().strip(" .[]()<>").casefold() in _PLACEHOLDERS
