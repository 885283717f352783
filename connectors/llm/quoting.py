"""Quote an endpoint's messages without text of documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from connectors.llm.prompt import Prompt

__all__ = ["text_of", "without_texts"]

_SHINGLE: Final = 20  # shared characters in a row that are not a coincidence
_STEP: Final = _SHINGLE // 2


def text_of(prompt: Prompt) -> str:
    """Return the text of documents in a prompt."""
    if isinstance(prompt.user, str):
        return prompt.user
    return "\n".join(
        part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in prompt.user
    )


def without_texts(words: str, texts: Iterable[str]) -> str:
    """Cut a message off where it repeats one of the texts."""
    end = len(words)
    for text in texts:
        # each repetition contains one of these steps entirely; the texts of a batch job are large
        for at in range(0, len(words) - _STEP + 1, _STEP):
            if words[at : at + _STEP] not in text:
                continue
            starts = range(max(at - _STEP, 0), min(at, len(words) - _SHINGLE) + 1)
            repeats = (start for start in starts if words[start : start + _SHINGLE] in text)
            if (start := next(repeats, None)) is not None:
                end = min(end, start)
                break
    return words if end == len(words) else f"{words[:end]}…"
