"""Secrets in addresses and names: never shown, logged or stored."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from connectors.llm.settings import LlmConnection
from connectors.s3.client import S3Connection
from engine.cli.exit_codes import explain
from engine.config import load_mapping
from engine.config.model import NodeOptions, RetryOptions, Settings
from engine.contract.batch import Batch
from engine.errors import ConfigError, FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.execution.events import RunEvent
from engine.flow.stats import RunSnapshot
from engine.plan.compile import compile_file
from engine.redaction import has_credentials, hide, without_credentials
from engine.registry import Registry
from engine.telemetry import configure_logging, log_event
from engine.testing import MemorySink, MemorySource, ScriptedClock, linear_plan
from tests.unit.kernel.runs import Wait, pages

CANARY = "c4n4ry-Zx9"
ADDRESSES = [
    f"http://user:{CANARY}@host:4200/ingest?limit=5",
    f"https://{CANARY}@host/v1",
    f"http://host/v1?key={CANARY}",
    f"http://host/v1?a=1&api_key={CANARY}&b=2",
    f"http://host/v1?X-Amz-Signature={CANARY}",
    f"http://u:p@{CANARY}@host/",
    f"postgresql://odw:{CANARY}@db/odw",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_shown_without_what_is_secret_in_it(address: str) -> None:
    shown = without_credentials(f"POST {address} answered 500")

    assert CANARY not in shown
    assert "host" in shown or "db" in shown
    assert shown.endswith("answered 500")
    assert has_credentials(address)
    assert without_credentials(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["http://host:4200/ingest/Blob?limit=5&page=2", "a@b.c wrote key=1", "s3://bucket/key@etag", "x?y", ""],
)
def test_nothing_else_is_changed(text: str) -> None:
    assert without_credentials(text) == text


@given(st.text(), st.text(max_size=8))
def test_hiding_leaves_no_secret_of_four_characters(text: str, secret: str) -> None:
    hidden = hide(f"{text}{secret}{text}", (secret,))
    if len(secret) >= 4 and secret not in "***" and "*" not in secret:
        assert secret not in hidden


@pytest.mark.parametrize(
    "build",
    [
        lambda url: LlmConnection(base_url=url),
        lambda url: S3Connection(endpoint=url),
    ],
)
@pytest.mark.parametrize("address", ADDRESSES[:5])
def test_connections_refuse_credentials_in_an_address(
    build: Callable[[str], BaseModel], address: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        build(address)
    details = caught.value.errors(include_input=False, include_url=False)
    assert "must not contain a user, a password or a key" in details[0]["msg"]
    assert CANARY not in details[0]["msg"]


@pytest.mark.parametrize(
    "node",
    [
        {"source": "${S}"},
        {"source": "blob", "with": {"${S}": 1}},
        {"source": "s3", "with": {"connection": "${S}", "pattern": "s3://b/*"}},
        {"source": "s3", "with": {"connection": "lake", "pattern": "s3://b/*"}},
        {"source": "blob", "with": {"records": "${S}"}},
        {"source": "module:${S}"},
        {"source": "${S}:thing"},
    ],
)
def test_a_secret_instead_of_a_name_is_not_quoted(node: dict[str, object]) -> None:
    pipeline = {"nodes": {"a": node, "b": {"sink": "stdout", "input": ["a", "${S}"]}}, "on_complete": "${S}"}
    document = {"connections": {"lake": {"endpoint": "${S}"}}, "pipelines": {"p": pipeline}}
    with pytest.raises(ConfigError) as caught:
        compile_file(load_mapping(document, environ={"S": CANARY}), Registry.installed())
    assert CANARY not in str(caught.value)


def failing(error: Exception) -> Callable[[Batch], Batch]:
    def apply(batch: Batch) -> Batch:
        if isinstance(error, RecordError):
            return batch.outcomes([error for _ in batch.records])
        raise error

    return apply


@pytest.mark.slow
@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", [TransientError, RecordError, FatalError])
async def test_no_output_of_a_run_has_a_canary(
    kind: type[Exception], address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, stages, notes = io.StringIO(), list[RunEvent](), set[str]()
    configure_logging("json", stream=log)

    def observe(stage: RunEvent) -> None:
        stages.append(stage)
        log_event(stage)

    class Clock(ScriptedClock):
        async def sleep(self, seconds: float) -> None:
            notes.update(shown(run.snapshot()) for run in engine._runs)
            await super().sleep(seconds)

    state = tmp_path / "state"
    plan = linear_plan(
        MemorySource(pages(3)),
        Wait(failing(kind(f"POST {address} answered 500"))),
        MemorySink(),
        options={"n1": NodeOptions(retry=RetryOptions(attempts=2, base=1.0, cap=1.0))},
        settings=Settings(outage_limit=5.0),
    )
    async with Engine(state_dir=state, clock=Clock(jump=True), observer=observe) as engine:
        report = await engine.run(plan)
        letters = await engine.store.list_runs()
    if report.failure is not None:
        explain(report.failure)
    outputs = [
        json.dumps(report.to_json()),
        repr(letters),
        log.getvalue(),
        repr(stages),
        *notes,
        *capsys.readouterr(),
        *(path.read_bytes().decode("latin-1") for path in state.rglob("*") if path.is_file()),
    ]
    assert [one for one in outputs if CANARY in one] == []
    if kind is not RecordError:
        assert "answered 500" in report.error


def shown(snapshot: RunSnapshot) -> str:
    return f"{snapshot.waits_for} {[node.note for node in snapshot.nodes]}"
