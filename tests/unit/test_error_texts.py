"""Error texts in spans."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.telemetry.error_texts import WithoutErrorTexts

SECRET = "Zoe Miller"


def test_a_span_has_the_type_of_an_error_and_not_its_text() -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(WithoutErrorTexts(spans)))
    tracer = provider.get_tracer("test")
    with pytest.raises(ValueError, match=SECRET), tracer.start_as_current_span("failing") as failing:
        failing.add_event("kept")
        raise ValueError(SECRET)
    with tracer.start_as_current_span("good"):
        pass
    bad, good = spans.get_finished_spans()
    assert SECRET not in bad.to_json()
    assert (bad.status.description, bad.status.is_ok) == ("ValueError", False)
    assert [event.name for event in bad.events] == ["kept"]
    assert good.status.description is None
