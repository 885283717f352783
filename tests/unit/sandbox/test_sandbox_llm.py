"""The stand-in speaks OpenAI's protocol, counts, and fails on demand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.llm.documents import PromptDocument
from engine.sandbox.llm.injected_errors import (
    Fault,
    MalformedJson,
    OmitSlot,
    Refusal,
    SwapSlots,
    Truncated,
    internal_error,
    rate_limited,
)

SLOT = {"type": "object", "properties": {"nonce": {"type": "string"}, "doctor": {"type": ["string", "null"]}}}


def request(*doctors: str, **changes: object) -> dict[str, object]:
    slots = [f"r{number}" for number in range(1, len(doctors) + 1)]
    parts = [
        {
            "type": "text",
            "text": f'<document slot="{slot}" nonce="n{slot}" name="x">\nDoctor: {name}\n</document>',
        }
        for slot, name in zip(slots, doctors, strict=True)
    ]
    schema = {"type": "object", "properties": dict.fromkeys(slots, SLOT), "required": slots}
    body: dict[str, object] = {
        "model": "sandbox-extractor",
        "messages": [{"role": "system", "content": "Extract."}, {"role": "user", "content": parts}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "strict": True, "schema": schema},
        },
    }
    return body | changes


async def post(stand_in: LlmStandIn, body: dict[str, object], key: str = "sandbox") -> httpx.Response:
    transport = httpx.ASGITransport(stand_in.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
        return await client.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        )


def choice(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


def answer(response: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(choice(response)["message"]["content"])
    return found


async def test_an_answer_says_who_gave_it_and_what_it_cost() -> None:
    response = await post(LlmStandIn(clock=lambda: 1_700_000_000.9), request("Dr. One"))
    body = response.json()
    content = body["choices"][0]["message"]["content"]
    assert answer(response) == {"r1": {"nonce": "nr1", "doctor": "Dr. One"}}
    assert (body["model"], body["system_fingerprint"]) == ("sandbox-extractor", "sandbox-stand-in")
    assert response.headers["x-odw-stand-in"] == "true"
    assert body["created"] == 1_700_000_000
    characters = len("Extract.") + len(
        '<document slot="r1" nonce="nr1" name="x">\nDoctor: Dr. One\n</document>'
    )
    prompt, completion = -(-characters // 4), -(-len(content) // 4)
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


@pytest.mark.parametrize(
    ("key", "changes", "status", "code"),
    [
        ("wrong", {}, 401, "invalid_api_key"),
        ("sandbox", {"model": "gpt-4o"}, 404, "model_not_found"),
        ("sandbox", {"messages": [{"role": "user", "content": "x" * 500}]}, 400, "context_length_exceeded"),
        ("sandbox", {"messages": []}, 400, None),
        ("sandbox", {"stream": True}, 400, None),
    ],
)
async def test_a_wrong_call_is_refused_in_openais_shape(
    key: str, changes: dict[str, object], status: int, code: str | None
) -> None:
    stand_in = LlmStandIn(context_tokens=100)
    response = await post(stand_in, request("Dr. One", **changes), key)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error")
    assert error["message"]
    assert response.headers["x-odw-stand-in"] == "true"
    assert (stand_in.stats.calls, stand_in.stats.refused, stand_in.stats.answered) == (1, 1, 0)


async def test_an_error_message_never_repeats_the_key() -> None:
    assert "hunter2" not in (await post(LlmStandIn(), request("Dr. One"), key="hunter2")).text


async def test_an_answer_over_the_callers_limit_is_cut_and_reports_it() -> None:
    response = await post(LlmStandIn(), request("Dr. One", max_completion_tokens=5))
    assert choice(response)["finish_reason"] == "length"
    assert len(choice(response)["message"]["content"]) == 20


async def test_a_prompt_without_documents_is_one_document() -> None:
    body = request(
        "Dr. One", messages=[{"role": "user", "content": "Doctor: Dr. Plain"}], response_format=None
    )
    assert answer(await post(LlmStandIn(), body))["doctor"] == "Dr. Plain"


async def test_statistics_add_up_over_calls() -> None:
    stand_in = LlmStandIn()
    spent = [(await post(stand_in, request("Dr. One"))).json()["usage"] for _ in range(2)]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(stand_in.app), base_url="http://sandbox"
    ) as client:
        stats = (await client.get("/stats")).json()
    assert (stats["calls"], stats["answered"], stats["refused"]) == (2, 2, 0)
    assert stats["documents"] == 2
    assert stats["prompt_tokens"] == sum(usage["prompt_tokens"] for usage in spent)
    assert stats["completion_tokens"] == sum(usage["completion_tokens"] for usage in spent)
    assert (stats["in_flight"], stats["max_in_flight"]) == (0, 1)


async def test_an_omitted_slot_is_missing_and_the_others_stay() -> None:
    response = await post(LlmStandIn(faults=[OmitSlot("r1")]), request("Dr. One", "Dr. Two"))
    assert answer(response) == {"r2": {"nonce": "nr2", "doctor": "Dr. Two"}}


async def test_swapped_slots_carry_each_others_nonce() -> None:
    response = await post(LlmStandIn(faults=[SwapSlots("r1", "r2")]), request("Dr. One", "Dr. Two"))
    assert answer(response) == {
        "r1": {"nonce": "nr2", "doctor": "Dr. Two"},
        "r2": {"nonce": "nr1", "doctor": "Dr. One"},
    }


async def test_a_rate_limit_says_when_to_come_back_and_the_next_call_passes() -> None:
    stand_in = LlmStandIn(faults=[rate_limited(2.5), None])
    refused = await post(stand_in, request("Dr. One"))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2.5")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert (await post(stand_in, request("Dr. One"))).status_code == 200


async def test_an_internal_error_is_a_500_without_a_hint() -> None:
    response = await post(LlmStandIn(faults=[internal_error()]), request("Dr. One"))
    assert response.status_code == 500
    assert "retry-after" not in response.headers


async def test_a_malformed_answer_is_finished_but_no_json() -> None:
    response = await post(LlmStandIn(faults=[MalformedJson()]), request("Dr. One"))
    assert choice(response)["finish_reason"] == "stop"
    with pytest.raises(json.JSONDecodeError):
        answer(response)


async def test_a_truncated_answer_ends_with_length() -> None:
    response = await post(LlmStandIn(faults=[Truncated()]), request("Dr. One"))
    assert choice(response)["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        answer(response)


async def test_a_refusal_has_no_content() -> None:
    message = choice(await post(LlmStandIn(faults=[Refusal("no")]), request("Dr. One")))["message"]
    assert (message["content"], message["refusal"]) == (None, "no")


async def test_faults_may_follow_the_content() -> None:
    def poison(documents: Sequence[PromptDocument]) -> Fault | None:
        return internal_error() if any("Poison" in document.text for document in documents) else None

    stand_in = LlmStandIn(faults=poison)
    assert (await post(stand_in, request("Dr. One", "Dr. Poison"))).status_code == 500
    assert (await post(stand_in, request("Dr. One"))).status_code == 200
