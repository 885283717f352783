"""Spans of workflows and activities, around those of the engine: one trace for each run.

Imports OpenTelemetry: only a worker that traces loads it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from temporalio import workflow
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import HandleQueryInput, WorkflowInterceptorClassInput

__all__ = ["DurableTracing"]


class DurableTracing(TracingInterceptor):
    """The SDK's interceptor, for runs that no tracing client has started: submitted, or due by a schedule."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - the SDK's name
    ) -> type[TracingWorkflowInboundInterceptor]:
        """See `TracingInterceptor`."""
        super().workflow_interceptor_class(input)
        return _InRunsTrace


class _InRunsTrace(TracingWorkflowInboundInterceptor):
    """Without a parent every span of a workflow would be a trace of its own, so its run is the parent."""

    def _load_workflow_context_carrier(self) -> Any:
        return super()._load_workflow_context_carrier() or {"traceparent": _trace_of(workflow.info())}

    async def handle_query(self, input: HandleQueryInput) -> Any:  # noqa: A002 - the SDK's name
        """Whoever watches a run asks again and again: that is no part of it, and would be a trace each."""
        return await self.next.handle_query(input)


def _trace_of(info: workflow.Info) -> str:
    """The same on every worker, in every replay, and for executions that continue the first."""
    digest = sha256(info.first_execution_run_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
