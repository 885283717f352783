"""Lone surrogates: JSON and Python can represent them, UTF-8 cannot."""

from __future__ import annotations

__all__ = ["is_whole", "whole_text"]


def is_whole(text: str) -> bool:
    """Return whether a text has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def whole_text(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates by U+FFFD."""
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
