"""Spans that `run --traces` sends to a collector."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from engine.cli.exit_codes import ExitCode
from tests.integration.scripted_http import Answer, ScriptedServer

FILE = """\
pipelines:
  small:
    nodes:
      make: {source: generate, with: {records: 5, fields: {id: sequence}}}
      keep: {sink: stdout}
"""


async def run(folder: Path, *options: str) -> tuple[int, str]:
    (folder / "pipelines.yaml").write_text(FILE)
    command = [sys.executable, "-m", "engine", "run", "--state-dir", "state", "--quiet", *options]
    done = await anyio.run_process(command, cwd=folder, check=False)
    return done.returncode, done.stderr.decode()


@pytest.mark.series
async def test_a_collector_receives_the_spans_of_a_run(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    async with ScriptedServer(lambda request: Answer(200, b"")).running() as server:
        code, said = await run(tmp_path, "--traces", server.url)
    assert code == ExitCode.COMPLETED, said
    names: list[str] = []
    for request in server.requests:
        assert request.path == "/v1/traces"
        message = ExportTraceServiceRequest.FromString(request.body)
        for resource in message.resource_spans:
            service = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert service["service.name"] == "odw-engine"
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["batch keep", "node keep", "node make", "run small"]
