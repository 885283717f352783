"""Halves of surrogate pairs: JSON and Python can hold them, UTF-8 cannot."""

from __future__ import annotations

__all__ = ["is_whole", "whole_text"]


def is_whole(text: str) -> bool:
    """True when a text has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_text(text: str) -> str:
    """The text with U+FFFD for every half of a surrogate pair; two halves that belong together are one."""
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
