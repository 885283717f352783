"""Spans of runs, nodes and batches for OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine.contract.batch import Batch
from engine.contract.component import Kind, NoParams, Receipt, Transform, component
from engine.errors import ConfigError, FatalError
from engine.execution.engine import Engine
from engine.telemetry.tracing import OpenTelemetryTracer, tracing_to
from engine.testing import MemorySink, MemorySource, linear_plan

trace = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

RECORDS = [{"id": number, "text": f"secret {number}"} for number in range(10)]


@component(kind=Kind.TRANSFORM, name="current-span")
class CurrentSpan(Transform[NoParams]):
    """Notes the name of the span that is current while it works."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(NoParams())
        self.seen: list[str] = []
        self._error = error

    def apply(self, batch: Batch) -> Any:
        from opentelemetry.trace import get_current_span

        self.seen.append(getattr(get_current_span(), "name", ""))
        if self._error is not None:
            raise self._error
        return batch


@component(kind=Kind.TRANSFORM, name="current-span-later")
class CurrentSpanLater(CurrentSpan):
    """The same in a coroutine."""

    async def apply(self, batch: Batch) -> Any:
        await anyio.lowlevel.checkpoint()
        return super().apply(batch)


KINDS = pytest.mark.parametrize("kind", [CurrentSpan, CurrentSpanLater])


class Spans:
    """A provider whose spans are kept."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor

        self.exporter = export.InMemorySpanExporter()
        self.provider = trace.TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def tracer(self) -> OpenTelemetryTracer:
        return OpenTelemetryTracer(self.provider)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


@KINDS
async def test_a_run_has_a_span_for_each_node_and_batch(kind: type[CurrentSpan]) -> None:
    spans, middle = Spans(), kind()
    plan = linear_plan(MemorySource([RECORDS]), middle, MemorySink())
    async with Engine(tracer=spans.tracer) as engine:
        report = await engine.run(plan)

    (run,) = spans.named(f"run {plan.pipeline}")
    assert run.parent is None
    assert run.attributes["odw.run_id"] == report.run_id
    assert run.attributes["odw.status"] == "completed"
    nodes = [spans.named(f"node n{number}")[0] for number in range(3)]
    assert [node.parent.span_id for node in nodes] == [run.context.span_id] * 3
    assert [node.attributes["odw.records_out"] for node in nodes] == [10, 10, 10]
    assert spans.named("batch n0") == []
    for number in (1, 2):
        batches = spans.named(f"batch n{number}")
        assert sum(one.attributes["odw.records"] for one in batches) == 10
        assert {one.parent.span_id for one in batches} == {nodes[number].context.span_id}
    assert middle.seen == ["batch n1"] * len(spans.named("batch n1"))
    assert {one.end_time is not None for one in spans.exporter.get_finished_spans()} == {True}


@KINDS
async def test_a_failure_is_reported_by_its_type_alone(kind: type[CurrentSpan]) -> None:
    spans, broken = Spans(), kind(FatalError("of secret 7"))
    async with Engine(tracer=spans.tracer) as engine:
        report = await engine.run(linear_plan(MemorySource([RECORDS]), broken, MemorySink()))
    assert not report.ok
    assert spans.named("batch n1")[0].status.description == "FatalError"
    (run,) = spans.named(f"run {report.pipeline}")
    assert (run.status.is_ok, run.attributes["odw.status"]) == (False, "failed")
    assert "secret" not in str([span.to_json() for span in spans.exporter.get_finished_spans()])


class EndlessSink(MemorySink):
    """Says when it is given a batch, and never takes it."""

    begun: anyio.Event

    async def write(self, batch: Batch) -> Receipt:
        self.begun.set()
        await anyio.sleep_forever()
        raise AssertionError("it is cancelled")


async def test_a_run_that_is_cancelled_ends_its_spans() -> None:
    spans, sink = Spans(), EndlessSink()
    sink.begun = anyio.Event()
    plan = linear_plan(MemorySource([RECORDS]), sink)
    async with Engine(tracer=spans.tracer) as engine, anyio.create_task_group() as group:
        group.start_soon(engine.run, plan)
        await sink.begun.wait()
        group.cancel_scope.cancel()
    (ended,) = spans.named(f"run {plan.pipeline}")
    assert ended.attributes["odw.status"] == "cancelled"
    assert "Cancelled" in spans.named("batch n1")[0].status.description


@pytest.mark.parametrize("url", ["localhost:4318", "grpc://localhost:4317", "http://"])
async def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--traces: expected the URL of an OTLP endpoint"):
        async with tracing_to(url):
            pass


async def test_without_a_url_there_is_no_tracer() -> None:
    async with tracing_to("") as tracer:
        assert tracer is None


async def test_a_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'odw-engine\[tracing\]'"):
        async with tracing_to("http://localhost:4318"):
            pass
