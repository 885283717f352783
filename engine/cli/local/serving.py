"""Implementation of `serve FILE`: the service, the file's pipelines, and the views of the demo."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio

from engine.cli.local.operating import PipelineOperations, RunLog
from engine.cli.local.scheduling import Scheduler
from engine.cli.local.signals import stop_signals
from engine.cli.options import ServeOptions, StateOptions
from engine.cli.state import store_of
from engine.contract.imports import load_modules
from engine.errors import ConfigError
from engine.execution.engine import Engine
from engine.execution.notifying import post_periodically
from engine.execution.session import Session
from engine.flow.tracing import Tracer
from engine.plan.model import Plan
from engine.service import retention
from engine.service.metrics import Metrics
from engine.service.models import IngestModel, load_ingest_models
from engine.service.server import RunningService, running_service, serving_app
from engine.service.settings import ServiceSettings
from engine.service.topics import create_topic_app
from engine.telemetry.tracing import tracing_to

TOPICS_PORT = 9_999
FILES_PORT = 9_500


async def serve_file(options: ServeOptions, settings: ServiceSettings) -> int:
    """Serve until SIGINT or SIGTERM; runs in progress then deliver what they have read. Returns 0.

    Raises:
        ConfigError: the file is not valid.
        ServiceError, StateError: a port or the state directory cannot be used.
    """
    topics = options.topics_port if options.topics_port is not None else TOPICS_PORT if options.demo else None
    files = options.files_port if options.files_port is not None else FILES_PORT if options.demo else None
    async with AsyncExitStack() as stack:
        if files is not None:
            url = stack.enter_context(_sample_files(options, files))
            _say(f"files: {url}/unstructured-data/…")
        log = RunLog()
        host = PipelineOperations(options.file, log)
        host.watch_ends(_report)
        declared: tuple[IngestModel, ...] = ()
        if host.warehouse is not None:
            declared = host.warehouse.models()
            settings = replace(settings, retention=host.warehouse.retention())
            stack.enter_context(_logged(retention.__name__))
        service = await stack.enter_async_context(
            running_service(
                Path(options.state_dir),
                options.host,
                options.port,
                models=(*load_ingest_models(), *declared),
                settings=settings,
                host_of_runs=host,
                operations=host,
            )
        )
        host.watch_ends(partial(_count, service.context.metrics))
        if topics is not None:
            app = create_topic_app(service.context)
            url = await stack.enter_async_context(serving_app(app, options.host, topics, settings))
            _say(f"dead letters: {url}/topic/BlobSourceDeadLetterQueue/messages")
        tracer = await stack.enter_async_context(tracing_to(options.traces))
        engine = await stack.enter_async_context(_engine(options, log, tracer))
        await engine.offer_taps()
        await _until_stopped(engine, host, service, warm=options.demo)
    return 0


@contextmanager
def _logged(name: str) -> Iterator[None]:
    """Print the messages of this logger."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stdout)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _engine(options: ServeOptions, log: RunLog, tracer: Tracer | None) -> Engine:
    state = StateOptions(state_dir=options.state_dir)
    return Engine(
        state_dir=options.state_dir, store=store_of(state, create=True), observer=log, tracer=tracer
    )


async def _until_stopped(
    engine: Engine, host: PipelineOperations, service: RunningService, *, warm: bool
) -> None:
    async with anyio.create_task_group() as group:
        host.attach(engine, group)
        group.start_soon(_load_clients)
        if warm:  # so that the first run is as fast as later ones
            group.start_soon(engine.provide, host.services, host.warehouse)
        _say(f"ingest service listening at {service.url}; press Ctrl-C to stop")
        group.start_soon(host.measure)
        host.scheduler = Scheduler(host, engine, _say)
        await host.scheduler.resume_killed()
        group.start_soon(host.scheduler.run)
        group.start_soon(_post_pending, engine, host, posting := anyio.CancelScope())
        await stop_signals()
        posting.cancel()
        host.stop()


async def _post_pending(engine: Engine, host: PipelineOperations, scope: anyio.CancelScope) -> None:
    """Post the results that receivers have not accepted: first those of earlier processes, then all."""

    async def plans(_: object) -> Mapping[str, Plan]:
        return host.plans

    with scope:
        await post_periodically(engine.store, engine.clock, plans, engine.observer, older=timedelta())


@contextmanager
def _sample_files(options: ServeOptions, port: int) -> Iterator[str]:
    """Serve the sample bucket on a port, without a key, as the lake of the pipelines."""
    from engine.sandbox.s3 import ACCESS_KEY, REGION, SECRET_KEY, s3_server
    from engine.sandbox.server import DEFAULT_SAMPLES

    samples = Path(options.samples) if options.samples else DEFAULT_SAMPLES
    try:
        with s3_server(samples, port) as url:
            lake = {"S3_ENDPOINT": url, "S3_ACCESS_KEY": ACCESS_KEY, "S3_SECRET_KEY": SECRET_KEY}
            for name, value in {**lake, "S3_REGION": REGION}.items():
                os.environ.setdefault(name, value)
            yield url
    except FileNotFoundError as error:
        raise ConfigError(f"no sample documents: {error}. Name a directory with --samples") from error


async def _load_clients() -> None:
    """Import in advance what every run that loads into the service needs."""
    with suppress(ImportError):
        await load_modules("httpx", "httpx_aiohttp")


def _count(metrics: Metrics, _: str, session: Session) -> None:
    metrics.ended.update((report.pipeline, str(report.status)) for report in session.reports.values())


def _report(name: str, session: Session) -> None:
    for report in session.reports.values():
        tally, error = report.tally, f" ({report.error})" if report.error else ""
        counts = f"{tally.read} read, {tally.written} written, {tally.dead} dead"
        _say(f"{report.pipeline} {report.status}: {counts}{error}")
    if name not in session.reports:
        _say(f"{name} did not start")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
