"""A loopback HTTP server with scripted answers."""

from __future__ import annotations

import gzip
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Self

from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from engine.service.server import serving_app


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self):
        encoded = self.headers.get("content-encoding") == "gzip"
        return json.loads(gzip.decompress(self.body) if encoded else self.body)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b"SUCCESS"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, document: object, status: int = 200, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(document).encode(), {"content-type": "application/json", **named})


Script = Callable[[Request], Answer | Awaitable[Answer]]


class ScriptedServer:
    """Answers with `script`, or with `answers` one after another; records requests."""

    def __init__(self, script: Script | None = None, answers: list[Answer] | None = None) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self._script = script
        self._answers = deque(answers or [])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await HttpRequest(scope, receive).body()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        request = Request(scope["method"], scope["path"], scope["query_string"].decode(), headers, body)
        self.requests.append(request)
        answer = self._script(request) if self._script else self._answers.popleft()
        if isawaitable(answer):
            answer = await answer
        raw = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with serving_app(self) as url:
            self.url = url
            yield self


def unused_url() -> str:
    """An address of this machine without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
