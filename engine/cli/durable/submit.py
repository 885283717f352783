"""Implementation of `submit`: compile the plans and hand the runs to the server."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping

from temporalio.client import Client

from engine.cli.durable.options import SubmitOptions
from engine.cli.durable.server import client_of, command, request_of
from engine.cli.durable.watch import follow
from engine.cli.exit_codes import ExitCode
from engine.cli.loading import load_config, load_plans, load_plans_for_workers, resolve_aliases
from engine.cli.local.resume import refuse_living
from engine.cli.state import run_id_of, store_of
from engine.contract.clock import SystemClock
from engine.contract.types import JsonValue
from engine.errors import ConfigError, RunMismatchError
from engine.execution.session import starting
from engine.plan.identity import difference
from engine.plan.model import Plan
from engine.state import RunRecord, StateStore
from engine.temporal.messages import PipelineRequest
from engine.temporal.starting import refuse_running, request_before, start

AS_BEGUN = (
    "a run resumes alone and with its original parameters (--param applies to pipelines that follow it); "
    "change limits, concurrency and other operational settings in the workers' file"
)


async def submit(options: SubmitOptions) -> int:
    """Start the requested runs.

    Raises:
        ConfigError: the file or an argument is wrong.
        StateError: the run cannot be resumed.
        ServiceError: the server cannot be reached, or the run is in progress there.
    """
    requests = [] if options.resume else _fresh(options)
    client = await client_of(options)
    if options.resume:
        requests = await _resumed(client, options)
    handles = []
    for request in requests:
        handles.append(await start(client, request))
        verb = "resumed" if request.resume else "started"
        sys.stdout.write(f"{request.pipeline}: run {request.run_id} {verb} as workflow {handles[-1].id}\n")
        if not options.wait:
            sys.stdout.write(f"  {command('watch', request.run_id, options)}\n")
        sys.stdout.flush()  # print each started run now, in case the next one cannot be started
    if not options.wait:
        return ExitCode.COMPLETED
    runs = [request.run_id for request in requests]
    return int(await follow(client, dict(zip(runs, handles, strict=True)), options))


def _fresh(options: SubmitOptions) -> list[PipelineRequest]:
    plans = load_plans_for_workers(options)
    now = SystemClock().now()
    params = {name: dict(plan.params) for name, plan in plans.items()}
    return [
        request_of(
            options,
            name,
            run_id=f"{name}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}",
            identity=plans[name].identity,
            params=relevant(params, plans, name),
        )
        for name in starting(plans, resolve_aliases(options))
    ]


def relevant(
    params: Mapping[str, dict[str, object]], plans: Mapping[str, Plan], name: str
) -> dict[str, dict[str, object]]:
    """Return the run parameters of a pipeline and of its followers."""
    wanted, todo = {name}, [name]
    while todo:
        settings = plans[todo.pop()].settings
        new = {*settings.followers} & set(plans) - wanted
        wanted |= new
        todo += new
    return {one: params[one] for one in plans if one in wanted and params[one]}


async def _resumed(client: Client, options: SubmitOptions) -> list[PipelineRequest]:
    if options.only:
        raise ConfigError(f"--resume: {AS_BEGUN}")
    async with store_of(options) as store:
        record = await store.get_run(await run_id_of(store, options.resume or ""))
        own = load_config(options, only=[record.pipeline]).resolve_alias
        if any(own(text.partition(".")[0]) == record.pipeline for text in options.param):
            raise ConfigError(f"--resume: {AS_BEGUN}")
        before = await request_before(client, record)
        # the store has the run's own parameters; those of its followers came with the request
        known = before.params if before else {}
        params = {**known, record.pipeline: dict(record.params)}
        plans = await _check(store, record, options, params)
        await _announce_division(store, record, options)
    await refuse_running(client, record)
    given = relevant({name: dict(plan.params) for name, plan in plans.items()}, plans, record.pipeline)
    if record.pipeline not in known:  # parameters of a local run may be too large for a request
        given.pop(record.pipeline, None)
    if before is None:
        for name in sorted(set(plans) - {record.pipeline}):
            sys.stderr.write(
                f"{name}: may follow, but the server no longer knows the run's original parameters: "
                "--param applies to it as given now\n"
            )
    return [
        request_of(
            options,
            record.pipeline,
            run_id=record.run_id,
            identity=record.identity,
            params=given,
            resume=True,
        )
    ]


async def _check(
    store: StateStore,
    record: RunRecord,
    options: SubmitOptions,
    params: Mapping[str, Mapping[str, JsonValue]],
) -> Mapping[str, Plan]:
    """Return the plans of the run and its followers, if the run can be resumed."""
    if not record.status.resumable:
        raise ConfigError(f"--resume: run {record.run_id!r} has completed: nothing is left to resume")
    await refuse_living(store, SystemClock(), [record.run_id])
    plans = load_plans(options, only=[record.pipeline], params=params)
    plan = plans.get(record.pipeline)
    if plan is None:
        raise ConfigError(f"{options.file} has no pipeline `{record.pipeline}`")
    if plan.identity != record.identity:
        lines = "\n".join(f"  {line}" for line in difference(record.identity_doc, plan.identity_doc))
        raise RunMismatchError(f"run {record.run_id!r} was started with a different plan:\n{lines}")
    changed = difference(record.operational_doc, plan.operational_doc)
    for line in changed:
        sys.stderr.write(f"changed since {record.run_id} was started: {line}\n")
    if changed:
        sys.stderr.write("a worker applies this after a restart with the changed file\n")
    return plans


async def _announce_division(store: StateStore, record: RunRecord, options: SubmitOptions) -> None:
    asked = options.chunk_splits
    for node, settled in (await store.divisions(record.run_id)).items():
        if asked and asked != settled:
            sys.stderr.write(
                f"--chunk-splits {asked} has no effect: {node} of {record.run_id} was divided into chunks "
                f"of {settled} splits when it started\n"
            )
