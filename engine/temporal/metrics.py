"""Record counters next to the SDK's metrics, and their export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from temporalio.common import MetricCounter, MetricMeter
from temporalio.runtime import OpenTelemetryConfig, PrometheusConfig, Runtime, TelemetryConfig

from engine.contract.component import Kind
from engine.flow.stats import NodeSnapshot, RunSnapshot
from engine.temporal.logs import forwarded

__all__ = ["ChunkMeter", "MetricsOptions", "runtime"]


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """The export of metrics; at most one of the two.

    Args:
        prometheus: `host:port` to be scraped at.
        opentelemetry: the URL of an OTLP endpoint over gRPC.
    """

    prometheus: str = ""
    opentelemetry: str = ""


def runtime(options: MetricsOptions) -> Runtime:
    """Create the runtime of a worker with metrics; core logs go to `engine.temporal.logs`.

    Raises:
        ValueError: the address cannot be used, or was taken.
    """
    metrics: OpenTelemetryConfig | PrometheusConfig | None = None
    if options.opentelemetry:
        metrics = OpenTelemetryConfig(url=options.opentelemetry)
    elif options.prometheus:
        # seconds and unit suffixes are what Prometheus's naming conventions ask for
        metrics = PrometheusConfig(
            bind_address=options.prometheus,
            durations_as_seconds=True,
            unit_suffix=True,
            counters_total_suffix=True,
        )
    return Runtime(telemetry=TelemetryConfig(metrics=metrics, logging=forwarded()))


class ChunkMeter:
    """Counts what this attempt at a chunk does, by pipeline: `odw_records_read`, `odw_records_written`, …

    A record counts as written at every sink that has taken it.
    """

    def __init__(self, meter: MetricMeter, pipeline: str) -> None:
        labelled = meter.with_additional_attributes({"pipeline": pipeline})
        self._counters: dict[str, MetricCounter] = {
            name: labelled.create_counter(f"odw_{name}") for name in _counts(())
        }
        self._seen = _counts(())

    def update(self, snapshot: RunSnapshot) -> None:
        """Count the progress since the last call."""
        now = _counts(snapshot.nodes)
        for name, counter in self._counters.items():
            if now[name] > self._seen[name]:
                counter.add(now[name] - self._seen[name])
        self._seen = now


def _counts(nodes: Sequence[NodeSnapshot]) -> dict[str, int]:
    return {
        "records_read": sum(node.records_in for node in nodes if node.kind is Kind.SOURCE),
        "records_written": sum(node.records_out for node in nodes if node.kind is Kind.SINK),
        "records_dropped": sum(node.dropped for node in nodes),
        "records_dead": sum(node.dead for node in nodes),
        "retries": sum(node.retries for node in nodes),
    }
