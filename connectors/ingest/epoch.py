"""Epochs, which tell the service the order of a run's requests."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import quote

__all__ = ["Epoch", "epoch_scope"]

_PER_ATTEMPT = 1_000_000_000  # more uncertain answers than one attempt can wait for
_MAX_SCOPE = 200
_DIGEST = 65  # characters of a digest and its prefix


class Epoch:
    """A number that grows with each attempt of a run and each request whose outcome is unknown.

    A request that was sent before it grew may still arrive later. Its lower number tells the service that its
    records may have been delivered again meanwhile.

    Args:
        scope: scope within which numbers are compared; see `epoch_scope`.
        attempt: number of the attempt at the run, or at any part of it.
    """

    def __init__(self, scope: str, attempt: int) -> None:
        self._scope = scope
        self._number = attempt * _PER_ATTEMPT

    @property
    def header(self) -> str:
        """The value of `X-ODW-Epoch` for a request that is sent now."""
        return f"{self._scope} {self._number}"

    def advance(self) -> None:
        """Increment the epoch after a request with an unknown outcome."""
        self._number += 1


def epoch_scope(run_id: str, node: str, chunk: str = "") -> str:
    """Encode a node of a run or chunk as 1 to 200 characters without spaces, for a header.

    Chunks of a run share no records, so a chunk's requests (`run/node#chunk`) are compared with each other
    and with those of the run as a whole.
    """
    whole = f"{quote(run_id, safe='')}/{quote(node, safe='')}"
    part = f"#{quote(chunk, safe='')}" if chunk else ""
    if len(whole) + max(len(part), _DIGEST) <= _MAX_SCOPE:
        return whole + part
    whole = whole if len(whole) + _DIGEST <= _MAX_SCOPE else _digest(whole)
    return f"{whole}#{_digest(part)}" if part else whole


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
