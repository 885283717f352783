"""Implementation of `control` and `cancel`."""

from __future__ import annotations

import sys

from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError
from temporalio.exceptions import FailureError
from temporalio.service import RPCError, RPCStatusCode

from engine.cli.display.numbers import counted
from engine.cli.durable.options import ControlOptions, DurableOptions
from engine.cli.durable.server import workflow_of
from engine.cli.exit_codes import ExitCode
from engine.errors import ConfigError, ServiceError
from engine.temporal.messages import Control
from engine.temporal.starting import Handle
from engine.temporal.workflows import PipelineRun


async def steer(options: ControlOptions) -> int:
    """Send an update to a run and print the new state.

    Raises:
        ConfigError: the number is missing, superfluous or out of bounds.
        ServiceError: the run has ended, or the server cannot be reached.
    """
    if (options.action == "window") is not (options.number is not None):
        raise ConfigError("`window` requires a number, and only `window` takes one: control RUN window 4")
    _, handle = await workflow_of(options)
    control = await _sent(handle, options)
    state = "draining" if control.draining else "paused" if control.paused else "running"
    sys.stdout.write(
        f"{options.run}: {state}, at most {counted(control.window, 'chunk')} in progress per shard\n"
    )
    return ExitCode.COMPLETED


async def _sent(handle: Handle, options: ControlOptions) -> Control:
    try:
        if options.action == "window":
            return await handle.execute_update(PipelineRun.set_window, options.number or 0)
        update = {"pause": PipelineRun.pause, "resume": PipelineRun.resume, "drain": PipelineRun.drain}
        return await handle.execute_update(update[options.action])
    except WorkflowUpdateFailedError as error:
        cause = error.cause
        why = cause.message if isinstance(cause, FailureError) else str(cause)
        raise ConfigError(f"the run rejected the command: {why}") from error
    except RPCError as error:
        raise _gone(handle, error) from error


async def cancel(options: DurableOptions) -> int:
    """Ask the server to cancel a run.

    Raises:
        ServiceError: the run has ended, or the server cannot be reached.
    """
    _, handle = await workflow_of(options)
    try:
        described = await handle.describe()
        if described.status is not WorkflowExecutionStatus.RUNNING:  # the server would not report this
            raise _ended(handle)
        await handle.cancel()
    except RPCError as error:
        raise _gone(handle, error) from error
    sys.stdout.write(f"{options.run}: delivering what is in progress, then ending\n")
    return ExitCode.COMPLETED


def _ended(handle: Handle) -> ServiceError:
    return ServiceError(f"workflow {handle.id} has ended: `watch` and `runs show` show its result")


def _gone(handle: Handle, error: RPCError) -> ServiceError:
    if error.status is RPCStatusCode.NOT_FOUND:
        return _ended(handle)
    return ServiceError(f"the Temporal server rejected the request: {error.message}")
