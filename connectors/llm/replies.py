"""Match the slots of replies with documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import orjson

__all__ = ["Values", "match_slots"]

Values: TypeAlias = Mapping[str, object]

_FENCE = re.compile(r"\A\s*```[a-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL | re.IGNORECASE)


def match_slots(content: str, nonces: Mapping[str, str]) -> dict[str, Values] | None:
    """Return the values of each slot, matched by nonce, or None if the reply is not a JSON object.

    A slot's answer is the object that echoes its nonce, wherever it stands: swapped answers are put right. A
    slot whose nonce is not in the reply, or in it twice, is left out.
    """
    try:
        reply = orjson.loads(_without_fence(content))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(reply, dict):
        return None
    answers = [answer for answer in reply.values() if isinstance(answer, dict)]
    echoed = Counter(answer["nonce"] for answer in answers if isinstance(answer.get("nonce"), str))
    by_nonce = {answer["nonce"]: answer for answer in answers if isinstance(answer.get("nonce"), str)}
    return {slot: by_nonce[nonce] for slot, nonce in nonces.items() if echoed[nonce] == 1}


def _without_fence(content: str) -> str:
    """The content without the ```json fence that some models put around it."""
    match = _FENCE.match(content)
    return match[1] if match else content
