"""Traces of calls: a document's part of the prompt and of the reply, redacted as declared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Final

from connectors.llm.completion import Reply
from connectors.llm.json_text import written
from connectors.llm.prompt import Prompt
from connectors.llm.replies import match_slots
from connectors.llm.spelling import whole_text
from engine.contract.types import JsonValue
from engine.redaction import HIDDEN

MAX_TRACED: Final = 64_000
"""Characters kept of a prompt, and of a reply."""

_ESCAPE: Final = re.compile(r"\\(?:\\|u([0-9a-fA-F]{4})|/)")
# the text of a document cannot close it, see `connectors.llm.prompt`
_DOCUMENT: Final = re.compile(r'<document slot="(r\d+)"[^\n]*>\n.*?</document>', re.DOTALL)
_KEPT: Final = frozenset('"\\')


class Tracer:
    """Writes traces.

    Args:
        redacted: regular expressions; what they match is replaced by `***`.
    """

    def __init__(self, redacted: Sequence[str]) -> None:
        self._patterns = [re.compile(one) for one in redacted]

    def trace(self, prompt: Prompt, reply: Reply) -> list[tuple[str, str]]:
        """Return the prompt and reply of a call for each of its documents; images are described by size.

        Readers of a trace may read its document, but not others: of those it contains only the slots.
        """
        user = "\n".join(
            part["text"] if part["type"] == "text" else f"[image of {len(str(part)):,} characters]"
            for part in prompt.parts
        )
        answers = {} if prompt.lone else _answers(prompt, reply)
        traces = []
        for slot in prompt.nonces:
            own = user if prompt.lone else _DOCUMENT.sub(partial(_unless, slot), user)
            answer = reply.content or reply.refusal if prompt.lone else answers[slot]
            if reply.finish_reason not in ("", "stop"):
                answer += f"\n[{reply.finish_reason}]"
            traces.append((self._kept(f"[system]\n{prompt.system}\n\n[user]\n{own}"), self._kept(answer)))
        return traces

    def _kept(self, text: str) -> str:
        if self._patterns:
            text = _ESCAPE.sub(_unescaped, text)
        text = whole_text(text)
        for pattern in self._patterns:  # before cutting: part of a match would no longer match
            text = pattern.sub(HIDDEN, text)
        return text if len(text) <= MAX_TRACED else f"{text[: MAX_TRACED - 1]}…"


def _unless(slot: str, document: re.Match[str]) -> str:
    return document[0] if document[1] == slot else f'<document slot="{document[1]}">…</document>'


def _answers(prompt: Prompt, reply: Reply) -> dict[str, str]:
    """Return the part of a reply about each document, by slot."""
    reading = match_slots(reply.content, prompt.nonces)
    found = reading.answers if reading is not None else {}
    length = len(reply.content or reply.refusal)
    none = f"[none in a reply of {length:,} characters about {len(prompt.nonces)} documents]"
    return {slot: written({slot: found[slot]}) if slot in found else none for slot in prompt.nonces}


def redact_texts(value: JsonValue, patterns: Sequence[str]) -> JsonValue:
    """Replace matches of these regular expressions in all texts and numbers of a value.

    Keys are not changed. A number with a match becomes a text.
    """
    if isinstance(value, str):
        for pattern in patterns:
            value = re.sub(pattern, HIDDEN, value)
        return value
    if isinstance(value, list):
        return [redact_texts(one, patterns) for one in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
        hidden = redact_texts(text, patterns)
        return value if hidden == text else hidden
    if isinstance(value, dict):
        return {name: redact_texts(one, patterns) for name, one in value.items()}
    return value


def _unescaped(match: re.Match[str]) -> str:
    """Return the character of an optional JSON escape; keep escapes that JSON requires."""
    if match[0] == "\\/":
        return "/"
    character = chr(int(match[1], 16)) if match[1] else "\\"
    return match[0] if character in _KEPT or character < " " else character
