"""Trace workflows and activities, around the engine's own spans: one trace for each run.

Imports OpenTelemetry, so only a worker with tracing loads it.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from temporalio import workflow
from temporalio.contrib.opentelemetry import TracingInterceptor, TracingWorkflowInboundInterceptor
from temporalio.worker import HandleQueryInput, WorkflowInterceptorClassInput


class DurableTracing(TracingInterceptor):
    """The SDK's interceptor, for runs that were not started by a tracing client."""

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002 - the SDK's name
    ) -> type[TracingWorkflowInboundInterceptor]:
        """See `TracingInterceptor`."""
        super().workflow_interceptor_class(input)
        return _InRunsTrace


class _InRunsTrace(TracingWorkflowInboundInterceptor):
    """Makes the run the parent of a workflow's spans, each of which would otherwise be a separate trace."""

    def _load_workflow_context_carrier(self) -> Any:
        return super()._load_workflow_context_carrier() or {"traceparent": _trace_of(workflow.info())}

    async def handle_query(self, input: HandleQueryInput) -> Any:  # noqa: A002 - the SDK's name
        """Do not trace queries, since each poll of a watcher would be a separate trace."""
        return await self.next.handle_query(input)


def _trace_of(info: workflow.Info) -> str:
    """Return a trace id that is the same on every worker, in every replay, and in continued executions."""
    digest = sha256(info.first_execution_run_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
