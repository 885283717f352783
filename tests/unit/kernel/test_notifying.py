"""`notify` and `on_failure`: notifications of a run's end, and follow-up runs after a failure."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import current_token

from engine.config import load_file
from engine.config.model import Notify
from engine.contract.acks import Tally
from engine.execution import notifying
from engine.execution import session as session_module
from engine.execution.engine import Engine
from engine.execution.events import Observer, RunEvent, null_observer
from engine.execution.report import RunReport
from engine.execution.session import Session, starting
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry
from engine.state.records import RunStatus

FILE = """\
version: 1
pipelines:
  main:
    on_failure: repair
    on_complete: next
    notify: {url: URL, when: [completed, failed]}
    min_records: MIN
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: jsonl, with: {path: out.jsonl}}
  repair:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: jsonl, with: {path: repaired.jsonl}}
  next:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      write: {sink: jsonl, with: {path: next.jsonl}}
"""


class Hook:
    """A listener that refuses the first requests, as many as it is told."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.on_post: Callable[[], object] = lambda: None
        self.refusals = 0
        self.asked = 0
        self.breaks_off = False
        self.answers = threading.Event()
        self.answers.set()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.asked += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.ids.append(self.headers[notifying.ID_HEADER])
                hook.on_post()
                hook.answers.wait()
                is_refused = hook.asked <= hook.refusals
                if not is_refused:
                    hook.messages.append(json.loads(body))
                self.send_response(503 if is_refused else 200 if hook.breaks_off else 204)
                if hook.breaks_off:
                    self.send_header("Content-Length", "10")  # that never come
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def hook() -> Iterator[Hook]:
    listener = Hook()
    thread = threading.Thread(target=listener.server.serve_forever, daemon=True)
    thread.start()
    yield listener
    listener.answers.set()
    listener.server.shutdown()
    listener.server.server_close()
    thread.join()


def plans_of(folder: Path, url: str, least: int) -> dict[str, Plan]:
    (folder / "in.jsonl").write_text('{"id": 1}\n')
    file = folder / "p.yaml"
    text = FILE.replace("URL", url).replace("MIN", str(least))
    file.write_text(text.replace("jsonl}}", "jsonl}}").replace("path: ", f"path: {folder}/"))
    return compile_file(load_file(str(file), environ={}), Registry.installed())


async def run(folder: Path, url: str, least: int, said: list[str] | None = None) -> dict[str, str]:
    plans = plans_of(folder, url, least)
    observer = (lambda event: said.append(event.message)) if said is not None else (lambda event: None)
    async with Engine(observer=observer) as engine:
        session = Session(engine, plans, starting(plans))
        await session.execute()
    return {name: str(report.status) for name, report in session.reports.items()}


@pytest.mark.slow
async def test_a_failure_is_told_and_followed(tmp_path: Path, hook: Hook) -> None:
    assert await run(tmp_path, hook.url, 5) == {"main": "failed", "repair": "completed"}
    (message,) = hook.messages
    assert (message["pipeline"], message["status"], message["read"]) == ("main", "failed", 1)
    assert "5" in message["error"]


@pytest.mark.slow
async def test_a_good_end_is_reported_with_its_counts(tmp_path: Path, hook: Hook) -> None:
    assert await run(tmp_path, hook.url, 0) == {"main": "completed", "next": "completed"}
    assert [(one["read"], one["written"], one["dead"]) for one in hook.messages] == [(1, 1, 0)]


@pytest.mark.slow
async def test_a_busy_listener_is_reported_again(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_BACKOFF", 0)
    hook.refusals = 2
    await run(tmp_path, hook.url, 0)
    assert len(hook.messages) == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_followers_do_not_wait_for_a_slow_listener(
    tmp_path: Path, hook: Hook, is_cancelled: bool
) -> None:
    told: list[str] = []

    def follow(event: RunEvent) -> None:
        told.append(event.message)
        if (event.pipeline, event.action) == ("repair", "run_finished"):
            session.cancel() if is_cancelled else hook.answers.set()

    hook.answers.clear()
    plans = plans_of(tmp_path, hook.url, 5)
    async with Engine(observer=follow) as engine:
        session = Session(engine, plans, starting(plans))
        await session.execute()
    assert session.reports["repair"].ok
    assert any("could not be posted" in text for text in told) is is_cancelled
    assert bool(hook.messages) is not is_cancelled


async def session_of(
    folder: Path, url: str, least: int, *, only: str = "main", observer: Observer = null_observer
) -> Session:
    """What `run --only` does with a state directory, in a process of its own."""
    plans = plans_of(folder, url, least)
    plans = {
        name: replace(plan, settings=replace(plan.settings, on_failure=())) for name, plan in plans.items()
    }
    async with Engine(state_dir=folder / "state", observer=observer) as engine:
        session = Session(engine, plans, [only], posts_pending=True)
        await session.execute()
    return session


@pytest.mark.slow
async def test_an_unaccepted_result_is_posted_at_the_next_start(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_BACKOFF", 0)
    hook.refusals = 4  # three attempts, and that of the second start
    first = await session_of(tmp_path, hook.url, 5)
    for _ in range(3):
        await session_of(tmp_path, hook.url, 5, only="repair")
    assert [one["run_id"] for one in hook.messages] == [first.reports["main"].run_id]
    assert hook.ids == [hook.ids[0]] * 5


@pytest.mark.slow
async def test_a_result_of_long_ago_is_given_up_with_a_warning(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_BACKOFF", 0)
    hook.refusals = 3
    await session_of(tmp_path, hook.url, 5)
    monkeypatch.setattr(notifying, "MAX_AGE", timedelta(seconds=-1))
    told: list[RunEvent] = []
    await session_of(tmp_path, hook.url, 5, only="repair", observer=told.append)
    assert not hook.messages
    assert ["1 results" in one.message for one in told if one.action == "notify"] == [True]


@pytest.mark.slow
async def test_only_the_last_attempt_of_a_run_is_told(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "FIRST_BACKOFF", 0)
    monkeypatch.setattr(session_module, "_worth_another", lambda report: True)
    plans = plans_of(tmp_path, hook.url, 5)
    settings = replace(plans["main"].settings, retries=2, on_failure=())
    plans["main"] = replace(plans["main"], settings=settings)
    async with Engine() as engine:
        session = Session(engine, plans, ["main"])
        await session.execute()
        assert not await engine.store.notifications()
    assert [one["attempt"] for one in hook.messages] == [3]


@pytest.mark.slow
async def test_runs_that_could_not_begin_have_ids_of_their_own(tmp_path: Path, hook: Hook) -> None:
    plans = plans_of(tmp_path, hook.url, 0)
    async with Engine() as engine:
        for _ in range(3):
            session = Session(engine, plans, ["main"], run_ids={"main": "one-id"})
            await session.execute()
    assert [one["status"] for one in hook.messages] == ["completed", "failed", "failed"]
    assert len(set(hook.ids)) == 3


async def test_a_drain_leaves_a_slow_listener_the_result_for_later(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "POST_LIMIT", 0.05)
    hook.answers.clear()
    plans = plans_of(tmp_path, hook.url, 5)
    async with Engine() as engine, anyio.create_task_group() as group:
        session = Session(engine, plans, ["main"])
        hook.on_post = partial(anyio.from_thread.run_sync, session.drain, token=current_token())
        await session.execute()
        (left,) = await engine.store.notifications()
        group.cancel_scope.cancel()
    assert left.run_id == session.reports["main"].run_id
    assert not hook.messages


@pytest.mark.slow
@pytest.mark.parametrize("verb", [["run", "p.yaml", "--only", "main"], ["serve", "p.yaml", "--port", "0"]])
def test_a_killed_process_leaves_its_result_to_the_next(tmp_path: Path, hook: Hook, verb: list[str]) -> None:
    plans_of(tmp_path, hook.url, 5)
    hook.answers.clear()
    command = [sys.executable, "-m", "engine"]
    with subprocess.Popen([*command, "run", "p.yaml", "--only", "main"], cwd=tmp_path) as first:
        hook.on_post = first.kill
    assert first.returncode == -signal.SIGKILL
    is_repeated = threading.Event()
    hook.on_post = lambda: is_repeated.set() if hook.ids.count(hook.ids[0]) == 2 else None
    hook.answers.set()
    with subprocess.Popen([*command, *verb], cwd=tmp_path) as second:
        assert is_repeated.wait(300)
        if verb[0] == "serve":
            second.send_signal(signal.SIGTERM)


@pytest.mark.slow
async def test_an_answer_is_taken_without_its_body(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_BACKOFF", 0)
    hook.breaks_off = True
    said: list[str] = []
    await run(tmp_path, hook.url, 0, said)
    assert len(hook.messages) == 1
    assert not [text for text in said if "could not be posted" in text]


@pytest.mark.slow
async def test_an_unanswered_notification_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_BACKOFF", 0)
    said: list[str] = []
    ends = await run(tmp_path, "http://127.0.0.1:9/secret-path", 0, said)
    assert ends["main"] == "completed"
    (told,) = [text for text in said if "could not be posted" in text]
    assert "secret" not in told


@pytest.mark.parametrize(
    "url", ["ftp://x", "localhost:80", "javascript:x", "'http://[x'", "http://", "http://x:99999"]
)
def test_an_odd_address_is_found_before_the_run(tmp_path: Path, url: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(FILE.replace("URL", url).replace("MIN", "0"))
    assert any("http://" in str(one) for one in load_file(str(file), environ={}).problems)


@pytest.mark.parametrize(
    ("url", "environment"),
    [
        ("http://xn--/", {}),
        ("http://example.invalid/", {"HTTP_PROXY": "bogus://127.0.0.1"}),
        ("https://example.invalid/", {"SSL_CERT_FILE": "/nowhere/ca.pem"}),
    ],
)
async def test_an_address_that_cannot_be_used_is_only_told(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str]
) -> None:
    monkeypatch.setattr(notifying, "_FIRST_BACKOFF", 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    report = RunReport("main", "run-1", RunStatus.FAILED, Tally(), 1.0)
    told: list[RunEvent] = []
    await notifying.tell(Notify(url, frozenset({"failed"})), report, told.append)
    assert [one.action for one in told] == ["notify"]
