"""Payload codecs for tests: one hides payloads, and accepts only its own."""

from __future__ import annotations

from collections.abc import Iterable

from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

__all__ = ["Hiding"]

ENCODING = b"binary/hidden"


class Hiding(PayloadCodec):
    """Turns every byte around, which is enough not to be read by accident."""

    async def encode(self, payloads: Iterable[Payload]) -> list[Payload]:
        return [
            Payload(metadata={"encoding": ENCODING}, data=_turned(one.SerializeToString()))
            for one in payloads
        ]

    async def decode(self, payloads: Iterable[Payload]) -> list[Payload]:
        return [Payload.FromString(_turned(one.data)) for one in payloads if _is_hidden(one)]


def _is_hidden(payload: Payload) -> bool:
    if payload.metadata.get("encoding") != ENCODING:
        raise ValueError("a payload came without being encoded")
    return True


def _turned(data: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in data)
