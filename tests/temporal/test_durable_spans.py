"""Spans of a durable run: workflows, activities, and in them those of the engine."""

from __future__ import annotations

import pytest

from engine.cli.durable.worker import interceptors_of
from engine.execution.engine import Engine
from engine.telemetry.error_texts import WithoutErrorTexts
from engine.telemetry.tracing import OpenTelemetryTracer
from engine.temporal.workflows import PipelineRun
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.servers.temporal import DevServer
from tests.temporal.workshop import numbered, workshop

pytest.importorskip("opentelemetry.sdk")


@pytest.mark.series
async def test_a_durable_run_is_one_trace_down_to_its_nodes(server: DevServer) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(WithoutErrorTexts(spans)))
    tracer = OpenTelemetryTracer(provider)
    plan = linear_plan(MemorySource(numbered(1)), MemorySink())
    engine = Engine(tracer=tracer)
    async with (
        workshop(server, plan, engine=engine) as shop,
        shop.worker(interceptors=interceptors_of(tracer)),
    ):
        handle = await shop.start()
        assert (await handle.result()).status == "completed"
        await handle.query(PipelineRun.progress)
    found = spans.get_finished_spans()
    by_id = {span.context.span_id: span for span in found}
    (node,) = [span for span in found if span.name == "node n1"]
    way, upwards = list[str](), node.context.span_id
    while (span := by_id.get(upwards)) is not None:
        way.append(span.name)
        upwards = span.parent.span_id if span.parent is not None else 0
    assert way == [
        "node n1", "run test", "RunActivity:run_chunk", "StartActivity:run_chunk",
        "StartChildWorkflow:ShardRun",
    ]  # fmt: skip
    assert {"RunWorkflow:PipelineRun", "RunActivity:compile_plan"} <= {span.name for span in found}
    assert len({span.context.trace_id for span in found}) == 1
