"""Record counters next to the SDK's metrics, and their export."""

from __future__ import annotations

from collections import Counter

from temporalio.common import MetricCounter, MetricMeter
from temporalio.runtime import OpenTelemetryConfig, PrometheusConfig, Runtime, TelemetryConfig

from engine.contract.component import Kind
from engine.flow.stats import NodeSnapshot, RunSnapshot
from engine.temporal.logs import forwarded


def runtime(*, prometheus: str = "", opentelemetry: str = "") -> Runtime:
    """Create the runtime of a worker with metrics; core logs go to `engine.temporal.logs`.

    Args:
        prometheus: `host:port` to serve metrics at; "" if they are sent to the other, or not at all.
        opentelemetry: the URL of an OTLP endpoint over gRPC.

    Raises:
        ValueError: the address is not valid, or in use.
    """
    metrics: OpenTelemetryConfig | PrometheusConfig | None = None
    if opentelemetry:
        metrics = OpenTelemetryConfig(url=opentelemetry)
    elif prometheus:
        # Prometheus's naming conventions require seconds and unit suffixes
        metrics = PrometheusConfig(
            bind_address=prometheus,
            durations_as_seconds=True,
            unit_suffix=True,
            counters_total_suffix=True,
        )
    return Runtime(telemetry=TelemetryConfig(metrics=metrics, logging=forwarded()))


class ChunkMeter:
    """Counts the work of this attempt at a chunk, by pipeline and node: `odw_records_read`, and so on.

    A record counts as written at every sink that delivered it.
    """

    def __init__(self, meter: MetricMeter, pipeline: str) -> None:
        labelled = meter.with_additional_attributes({"pipeline": pipeline})
        self._counters: dict[str, MetricCounter] = {
            name: labelled.create_counter(f"odw_{name}", text) for name, text in _COUNTERS.items()
        }
        self._seen: Counter[tuple[str, str]] = Counter()

    def update(self, snapshot: RunSnapshot) -> None:
        """Count the progress since the last call."""
        for node in snapshot.nodes:
            for name, now in _counts(node).items():
                more = now - self._seen[node.name, name]
                if more > 0:
                    self._counters[name].add(more, {"node": node.name})
                    self._seen[node.name, name] = now


_COUNTERS = {
    "records_read": "Records read by sources.",
    "records_written": "Records delivered by sinks.",
    "records_dropped": "Records dropped by nodes.",
    "records_dead": "Records that became dead letters.",
    "retries": "Retried batches.",
    "bytes": "Bytes read or sent.",
    "requests": "Requests sent.",
    "calls": "Calls of models.",
    "tokens_in": "Tokens of prompts.",
    "tokens_out": "Tokens of answers.",
    "cost_microdollars": "Cost of answers, in millionths of a USD.",
}


def _counts(node: NodeSnapshot) -> dict[str, int]:
    counted = node.aggregate
    return {
        "records_read": node.records_in if node.kind is Kind.SOURCE else 0,
        "records_written": node.records_out if node.kind is Kind.SINK else 0,
        "records_dropped": node.dropped,
        "records_dead": node.dead,
        "retries": node.retries,
        **{name: int(counted.get(name, 0)) for name in _COUNTERS.keys() & counted.keys()},
        "cost_microdollars": round(counted.get("cost_usd", 0.0) * 1_000_000),
    }
