"""Implementation of `schedule`."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import timedelta

from temporalio.client import Client

from engine.cli.durable.options import ScheduleOptions
from engine.cli.durable.server import client_of, request_of
from engine.cli.durable.submit import relevant
from engine.cli.exit_codes import ExitCode
from engine.cli.loading import load_plans_for_workers, resolve_aliases
from engine.errors import ConfigError
from engine.temporal.schedules import MIN_CATCH_UP, create, delete, listed, pause, unpause
from engine.units import parse_duration

_OVERLAPS = {"wait": "buffer_one", "allow": "allow_all"}
"""What `if_running` means to the server; else a run is skipped."""


async def _create(options: ScheduleOptions) -> int:
    plans = load_plans_for_workers(options)
    wanted = resolve_aliases(options) or [name for name, plan in plans.items() if plan.settings.schedule]
    if not wanted:
        raise ConfigError(f'no pipeline in {options.file} has a `schedule:`, e.g. `schedule: "0 * * * *"`')
    unscheduled = [name for name in wanted if not plans[name].settings.schedule]
    if unscheduled:
        raise ConfigError(f"{', '.join(unscheduled)}: no `schedule:` in {options.file}")
    catch_up = _age(options.catch_up) if options.catch_up else None
    client = await client_of(options)
    params = {name: dict(plan.params) for name, plan in plans.items()}
    for name in wanted:
        settings = plans[name].settings
        request = request_of(options, name, params=relevant(params, plans, name))
        new = await create(
            client,
            request,
            settings.schedule,
            time_zone=settings.time_zone,
            overlap=options.overlap or _OVERLAPS.get(settings.if_running, "skip"),
            catch_up=catch_up or timedelta(seconds=settings.catch_up),
        )
        did = "scheduled" if new else "schedule changed"
        sys.stdout.write(f"{name}: {did}: {settings.schedule} {settings.time_zone}\n")
    return ExitCode.COMPLETED


def _age(text: str) -> timedelta:
    try:
        age = timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"--catch-up: {error}, got {text!r}") from None
    if age < MIN_CATCH_UP:
        raise ConfigError(f"--catch-up: Temporal requires at least 10s, got {text!r}")
    return age


async def _list(options: ScheduleOptions) -> int:
    found = await listed(await client_of(options))
    for one in found:
        if options.json:
            sys.stdout.write(json.dumps(asdict(one)) + "\n")
            continue
        state = "paused" if one.paused else f"next {one.next_run}" if one.next_run else "no further runs"
        zone = "" if one.time_zone == "UTC" else f" {one.time_zone}"
        sys.stdout.write(f"{one.pipeline}  {one.cron}{zone}  {state}\n")
    if not found:
        sys.stderr.write("no schedules\n")
    return ExitCode.COMPLETED


_CHANGES: Mapping[str, tuple[Callable[[Client, str], Awaitable[None]], str]] = {
    "pause": (pause, "paused"),
    "resume": (unpause, "schedule resumed"),
    "delete": (delete, "schedule deleted"),
}


async def _change(options: ScheduleOptions) -> int:
    change, done = _CHANGES[options.action]
    await change(await client_of(options), options.pipeline)
    sys.stdout.write(f"{options.pipeline}: {done}\n")
    return ExitCode.COMPLETED


ACTIONS: Mapping[str, Callable[[ScheduleOptions], Awaitable[int]]] = {
    "create": _create,
    "list": _list,
    **dict.fromkeys(_CHANGES, _change),
}
