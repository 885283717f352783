"""Implementation of `worker`: one engine, one client, and the queues, until a signal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

import anyio
from temporalio.runtime import Runtime
from temporalio.worker import Interceptor

from engine.cli.display.output import observer_of
from engine.cli.durable.options import WorkerOptions
from engine.cli.exit_codes import ExitCode
from engine.cli.loading import load_plans
from engine.cli.local.run import memory_of
from engine.cli.state import store_of
from engine.contract.types import JsonValue
from engine.errors import ConfigError
from engine.execution.engine import Engine
from engine.execution.notifying import post_periodically
from engine.plan.model import Plan
from engine.telemetry.tracing import OpenTelemetryTracer, tracing_to
from engine.temporal import worker
from engine.temporal.activities import Activities
from engine.temporal.connection import ServerOptions, connect
from engine.temporal.logs import told_to
from engine.temporal.messages import Queues
from engine.temporal.metrics import runtime
from engine.temporal.supervision import Patience
from engine.temporal.worker import ROLES, drain_limit, serve


async def work(options: WorkerOptions) -> int:
    """Poll until a signal stops it.

    Raises:
        ConfigError: the file or an argument is wrong.
        ServiceError: the server cannot be reached.
        StateError: the store cannot be used.
    """
    if options.build_id and "." in options.queue:
        raise ConfigError(
            f"--build-id: the deployment is named after --queue, so {options.queue!r} must not contain a dot"
        )
    names = list(load_plans(options))
    server = ServerOptions(options.address, options.namespace, options.profile, options.codec)
    client = await connect(server, runtime=_runtime(options))

    def plans(pipeline: str, params: Mapping[str, JsonValue]) -> Plan:
        try:
            return load_plans(options, only=[pipeline], params={pipeline: dict(params)})[pipeline]
        except ConfigError as error:  # shown to the user who submitted the run
            raise ConfigError(f"the worker's file does not accept the run: {error}") from None

    async with tracing_to(options.traces) as tracer, engine_of(options, tracer) as engine:
        activities = Activities(engine, plans, patience=Patience(stall_after=options.stall_after))
        settings = worker.WorkerOptions(
            Queues.named(options.queue),
            roles=options.roles or ROLES,
            slots=options.slots,
            grace=options.grace,
            chunks_per_second=options.chunks_per_second,
            deployment=options.queue,
            build_id=options.build_id,
            interceptors=interceptors_of(tracer),
        )
        stop = anyio.Event()
        _say(
            f"worker ready: {', '.join(names)} on queue {options.queue!r} at {_place(client)} (Ctrl-C to "
            "stop)"
        )
        async with anyio.create_task_group() as group:
            group.start_soon(_listen, stop, options)
            if "planning" in settings.roles:  # these workers store the results
                plans_of, observer = activities.plans_of, engine.observer
                group.start_soon(post_periodically, engine.store, engine.clock, plans_of, observer)
            with told_to(engine.observer):
                await serve(client, activities, settings, stop)
            group.cancel_scope.cancel()
    return ExitCode.COMPLETED


def interceptors_of(tracer: OpenTelemetryTracer | None) -> list[Interceptor]:
    """Return the interceptors that trace workflows and activities, around the engine's own spans."""
    if tracer is None:
        return []
    from engine.temporal.tracing import DurableTracing

    return [DurableTracing(tracer.tracer, always_create_workflow_spans=True)]


def engine_of(options: WorkerOptions, tracer: OpenTelemetryTracer | None = None) -> Engine:
    """Create the engine of a worker."""
    return Engine(
        state_dir=options.state_dir,
        store=store_of(options, create=True),
        memory=memory_of(options.memory),
        drain_limit=drain_limit(options.grace),
        observer=observer_of(options.log_format),
        tracer=tracer,
    )


async def _listen(stop: anyio.Event, options: WorkerOptions) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        async for _ in received:
            if not stop.is_set():
                _say(f"stopping: chunks in progress will be handed back within {options.grace:g} s")
            stop.set()


def _place(client: object) -> str:
    config = client.service_client.config  # type: ignore[attr-defined]
    return f"{config.target_host}/{client.namespace}"  # type: ignore[attr-defined]


def _runtime(options: WorkerOptions) -> Runtime:
    if options.metrics and options.otlp:
        raise ConfigError("--metrics and --otlp exclude each other: give one of them")
    try:
        return runtime(prometheus=options.metrics, opentelemetry=options.otlp)
    except ValueError as error:
        raise ConfigError(f"cannot export metrics at {options.metrics or options.otlp}: {error}") from error


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
