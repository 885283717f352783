"""An endpoint with all kinds of faults, each in 5 % of the calls, and runs against it.

`python -m tests.integration.llm_storm --records 2000` runs it at length.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pydantic import SecretStr
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from connectors.llm import LlmConnection, LlmExtract, LlmParams
from engine.config.model import NodeOptions, RetryOptions
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.sandbox.llm.answer import answer_for
from engine.sandbox.llm.documents import parse_documents
from engine.sandbox.llm.wire import ChatRequest
from engine.service.server import serving_app
from engine.state import DeadLetterFilter
from engine.state.memory import MemoryStateStore
from engine.testing import MemorySink, MemorySource, linear_plan

FORCING = ("429", "500", "503", "reset", "cut", "wrong", "missing", "prose", "refusal")
"""Faults after which a call has to be made again."""

HARMLESS = ("swapped", "extra", "around")
"""Faults that a good reader corrects without another call."""

SHARE = 0.05  # of the calls, for each kind of fault


@dataclass
class StormyEndpoint:
    """A model that reads memos, and goes wrong by seed."""

    seed: int
    share: float = SHARE
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    asked: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await HttpRequest(scope, receive).body()
        self.calls += 1
        chat = ChatRequest.model_validate_json(body)
        fault = self._fault(chat)
        self.faults[fault] += 1
        status, content, length = self._answer(chat, fault)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(length).encode())]
        if status == 429:
            headers.append((b"retry-after-ms", b"5"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _fault(self, chat: ChatRequest) -> str:
        """Draw a fault by question and repetition, so that the order of calls does not matter."""
        asked = " ".join(one.text for one in parse_documents(chat.user_parts()))
        self.asked[asked] += 1
        drawn = Random(f"{self.seed} {self.asked[asked]} {asked}").random()
        kinds = [*FORCING, *HARMLESS]
        place = int(drawn / self.share) if self.share else len(kinds)
        return kinds[place] if place < len(kinds) else ""

    def _answer(self, chat: ChatRequest, fault: str) -> tuple[int, bytes, int]:
        """Status, body, and the length that is announced."""
        if fault in ("429", "500", "503"):
            content = json.dumps({"error": {"message": "Not now.", "code": fault}}).encode()
            return int(fault), content, len(content)
        content = json.dumps(self._completion(chat, fault)).encode()
        return (200, content[:20], len(content)) if fault == "reset" else (200, content, len(content))

    def _completion(self, chat: ChatRequest, fault: str) -> dict[str, Any]:
        assert chat.response_format is not None
        assert chat.response_format.json_schema is not None
        documents = parse_documents(chat.user_parts())
        answer: dict[str, Any] = answer_for(documents, chat.response_format.json_schema.json_schema, {})
        message: dict[str, Any] = {"content": _worded(_spoiled(answer, fault), fault)}
        if fault == "refusal":
            message = {"content": None, "refusal": "I cannot help with that."}
        choice = {"message": message, "finish_reason": "length" if fault == "cut" else "stop"}
        usage = {"prompt_tokens": 100 * len(documents), "completion_tokens": 20 * len(documents)}
        return {"choices": [choice], "usage": usage}


def _spoiled(answer: dict[str, Any], fault: str) -> dict[str, Any]:
    slots = [name for name, value in answer.items() if isinstance(value, dict)]
    if fault == "extra":
        spare = {"nonce": "00000000", "patient_name": "Nobody"}
        more = {name: {**answer[name], "mood": "good"} for name in slots}
        return answer | more | ({"r99": spare} if slots else {"mood": "good"})
    if not slots:  # a lone document
        return {} if fault in ("wrong", "missing") else answer
    first, last = slots[0], slots[-1]
    if fault == "wrong":
        return answer | {first: {**answer[first], "nonce": "deadbeef"}}
    if fault == "missing":
        return {name: value for name, value in answer.items() if name != last}
    return answer | {first: answer[last], last: answer[first]} if fault == "swapped" else answer


def _worded(answer: dict[str, Any], fault: str) -> str:
    text = json.dumps(answer)
    if fault == "cut":
        return text[: len(text) // 2]
    if fault == "prose":
        return "I have read the documents, and they are about patients."
    return f"Here it is:\n```json\n{text}\n```\nAnything else?" if fault == "around" else text


def memo(number: int) -> dict[str, object]:
    text = (
        f"Patient: Person {number}\nAge: {20 + number % 60}\nPhone: 555-{number:05}\n"
        f"Procedure: Root canal\nAppointment: 2025-05-01\nDoctor: Dr. Number {number}\n"
    )
    return {"id": f"u{number}", "source_file_path": f"memos/{number}.txt", "extracted_data": text}


@dataclass
class Outcome:
    """The outcome of a storm: how often each document was written or died, and rows with another's data."""

    report: RunReport
    written: Counter[str]
    dead: Counter[str]
    kinds: Counter[str]
    mixed_up: list[str]
    calls: int
    faults: Counter[str]

    @property
    def forced(self) -> int:
        """Calls that had to be made again."""
        return sum(self.faults[name] for name in FORCING)


async def storm(records: int, seed: int, share: float = SHARE, batch_size: int = 5) -> Outcome:
    """Extract this many memos through a storm."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # answers that break off are meant to
    endpoint, sink, store = StormyEndpoint(seed, share), MemorySink(), MemoryStateStore()
    async with serving_app(endpoint) as url, Engine(store=store) as engine:
        connection = LlmConnection(base_url=f"{url}/v1", api_key=SecretStr("sandbox"), model="m")
        params = LlmParams(batch_size=batch_size, usd_per_million_input=1, usd_per_million_output=1)
        plan = linear_plan(
            MemorySource([[memo(number) for number in range(records)]]),
            LlmExtract(params, connection),
            sink,
            # five faults in twenty end a call, so ten tries in a row fail once in a million
            options={"n1": NodeOptions(retry=RetryOptions(attempts=10, base=0.001, cap=0.01))},
        )
        report = await engine.run(plan)
        letters = await store.dead_letters(DeadLetterFilter())
    rows = {row["id"]: row for row in sink.records}
    own = {"patient_name": "Person {}", "doctor": "Dr. Number {}", "phone_number": "555-{:05}"}
    mixed_up = [
        name
        for name, row in rows.items()
        if any(row[field] != form.format(int(name[1:])) for field, form in own.items())
    ]
    return Outcome(
        report,
        written=Counter(row["id"] for row in sink.records),
        dead=Counter(str(letter.record["id"]) for letter in letters),
        kinds=Counter(letter.error_type for letter in letters),
        mixed_up=mixed_up,
        calls=endpoint.calls,
        faults=endpoint.faults,
    )


async def _main(records: int, seed: int) -> None:
    clean, found = await storm(records, seed, share=0.0), await storm(records, seed)
    beyond = (found.calls - found.forced) / clean.calls
    print(  # noqa: T201 - a command
        f"{records} records: {len(found.written)} written, {len(found.dead)} dead {dict(found.kinds)}, "
        f"{len(found.mixed_up)} with another's data; {found.calls} calls, {found.forced} of them lost to "
        f"faults; the others are {beyond:.2f} of the {clean.calls} of a run without faults"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(_main(options.records, options.seed))
