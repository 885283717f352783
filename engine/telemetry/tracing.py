"""Traces of runs for OpenTelemetry: a span for each run, node and batch.

OpenTelemetry is imported only when a tracer is created.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from engine.errors import ConfigError
from engine.extras import install_command, missing_modules

_LAST_SECONDS: Final = 5
_PATH: Final = "/v1/traces"  # the path of collectors for spans over HTTP


class OpenTelemetryTracer:
    """Creates spans with a tracer provider of OpenTelemetry's SDK; see `Engine(tracer=...)`.

    A batch's span is current while its node processes it, so that spans of instrumented libraries belong to
    it. Spans contain names, numbers and types of errors, but no record data.

    Args:
        provider: a `TracerProvider`; the caller shuts it down.

    Attributes:
        tracer: creates the spans.
    """

    def __init__(self, provider: Any) -> None:
        self.tracer = provider.get_tracer("odw-engine")

    def run(self, pipeline: str, run_id: str, attempt: int) -> _RunTrace:
        """See `engine.flow.tracing.Tracer`."""
        numbers = {"odw.pipeline": pipeline, "odw.run_id": run_id, "odw.attempt": attempt}
        return _RunTrace(self.tracer, f"run {pipeline}", numbers)


class _RunTrace:
    def __init__(self, tracer: Any, name: str, numbers: dict[str, Any]) -> None:
        self._tracer, self._name, self._numbers = tracer, name, numbers
        self._nodes: dict[str, _NodeTrace] = {}
        self._span: Any = None

    def begin(self) -> None:
        self._span = self._tracer.start_span(self._name, attributes=self._numbers)
        for node in self._nodes.values():
            node.start(self._span)

    def node(self, name: str, component: str) -> _NodeTrace:
        node = self._nodes[name] = _NodeTrace(self._tracer, name, component)
        if self._span is not None:
            node.start(self._span)
        return node

    def end(self, status: str, numbers: Mapping[str, Mapping[str, float]]) -> None:
        for name, node in self._nodes.items():
            node.stop(numbers.get(name, {}))
        self._span.set_attribute("odw.status", status)
        if status in ("failed", "outage"):
            self._span.set_status(_error(), status)
        self._span.end()


class _NodeTrace:
    def __init__(self, tracer: Any, name: str, component: str) -> None:
        self._tracer = tracer
        self._numbers = {"odw.node": name, "odw.component": component}
        self._name, self._batch = f"node {name}", f"batch {name}"
        self._span: Any = None
        self._within: Any = None

    def start(self, run: Any) -> None:
        from opentelemetry.trace import set_span_in_context

        within = set_span_in_context(run)
        self._span = self._tracer.start_span(self._name, within, attributes=self._numbers)
        self._within = set_span_in_context(self._span)

    def stop(self, numbers: Mapping[str, float]) -> None:
        self._span.set_attributes({f"odw.{name}": value for name, value in numbers.items()})
        self._span.end()

    def begin(self, records: int) -> Callable[[BaseException | None], None]:
        from opentelemetry.context import attach, detach
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(self._batch, self._within, attributes={"odw.records": records})
        token = attach(set_span_in_context(span))

        def end(error: BaseException | None) -> None:
            detach(token)
            if error is not None:
                # the message of an error may quote a record
                span.set_status(_error(), type(error).__name__)
            span.end()

        return end


def _error() -> Any:
    from opentelemetry.trace import StatusCode

    return StatusCode.ERROR


@asynccontextmanager
async def tracing_to(url: str) -> AsyncGenerator[OpenTelemetryTracer | None, None]:
    """Send spans to the OTLP endpoint at this URL, over HTTP, for the duration of the block; "" for none.

    Remaining spans are sent at the end, for at most 5 seconds. While the endpoint does not answer, spans are
    dropped, and the run is not delayed.

    Raises:
        ConfigError: the URL is not valid, or the extra `tracing` is not installed.
    """
    if not url:
        yield None
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--traces: expected the URL of an OTLP endpoint, such as http://localhost:4318")
    if missing_modules("tracing"):
        raise ConfigError(f"--traces needs OpenTelemetry: {install_command(['tracing'])}")
    endpoint = url if parts.path.strip("/") else url.rstrip("/") + _PATH
    provider = await anyio.to_thread.run_sync(_provider, endpoint)
    try:
        yield OpenTelemetryTracer(provider)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_shut_down, provider)


def _provider(url: str) -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from engine.telemetry.error_texts import WithoutErrorTexts

    # the environment (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) takes precedence
    resource = Resource.create()
    if str(resource.attributes.get("service.name")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "odw-engine"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=url, timeout=_LAST_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(WithoutErrorTexts(exporter)))
    return provider


def _shut_down(provider: Any) -> None:
    provider.force_flush(_LAST_SECONDS * 1000)
    provider.shutdown()
