"""From the bytes of the samples to the stand-in's answer, through the real decoder and the real prompts."""

from __future__ import annotations

import json

import httpx
import pytest

from connectors.llm.dialect import Dialect
from connectors.llm.documents import Document
from connectors.llm.prompt import PromptWriter
from connectors.llm.schema import target_schema
from connectors.objects.decoding import decode
from connectors.objects.documents import parts
from engine.errors import RecordError
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.server import DEFAULT_SAMPLES, read_transcripts

TRUTH: dict[str, dict[str, str] | str] = json.loads((DEFAULT_SAMPLES / "truth.json").read_bytes())
PACK = 7  # any size above one; it does not divide the number of samples


def document(path: str) -> Document:
    decoded = decode((DEFAULT_SAMPLES / path).read_bytes(), path)
    return Document(path, parts(decoded.content, path))


@pytest.mark.slow
async def test_packed_calls_give_every_good_sample_its_true_fields() -> None:
    good = {path: fields for path, fields in TRUTH.items() if isinstance(fields, dict)}
    paths = list(good)
    writer = PromptWriter(target_schema("Medical"), "")
    stand_in = LlmStandIn(read_transcripts(DEFAULT_SAMPLES))
    answers: dict[str, object] = {}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(stand_in.app), base_url="http://llm"
    ) as client:
        for start in range(0, len(paths), PACK):
            pack = paths[start : start + PACK]
            prompt = writer.write([document(path) for path in pack])
            body = {"model": "sandbox-extractor", **Dialect().body(prompt, 4_000)}
            response = await client.post(
                "/v1/chat/completions", json=body, headers={"authorization": "Bearer sandbox"}
            )
            slots = json.loads(response.json()["choices"][0]["message"]["content"])
            assert {slot: answer.pop("nonce") for slot, answer in slots.items()} == dict(prompt.nonces)
            answers |= zip(pack, slots.values(), strict=True)
    assert answers == good


def test_empty_sample_is_dropped_and_corrupt_one_refused() -> None:
    fates = {fate: path for path, fate in TRUTH.items() if isinstance(fate, str)}
    assert document(fates["empty"]).parts == []
    with pytest.raises(RecordError, match="cannot read"):
        document(fates["corrupt"])
