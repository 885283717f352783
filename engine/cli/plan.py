"""Forecast a run: what it would read, what each node would produce, where that goes and what it costs.

Lists the sources and sends a few records of each through the transforms, to learn fields and counts. Nothing
is delivered, stored or paid for. Figures after the sources are scaled from the sample.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.cli.options import ForecastOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.plan.model import Plan
    from engine.preview import Forecast


def execute(options: ForecastOptions) -> int:
    """Print the forecast."""
    from engine.cli.event_loop import on_event_loop

    return on_event_loop(lambda: _run(options))


async def _run(options: ForecastOptions) -> int:
    import json
    from pathlib import Path

    from engine.cli.display.forecast import as_text
    from engine.cli.display.terminal import printable
    from engine.cli.loading import load_plans
    from engine.cli.local.trial import dry_store
    from engine.execution.engine import Engine
    from engine.preview import forecast

    plans = load_plans(options)
    forecasts: list[Forecast] = []
    samples = Path(options.samples) if options.samples else None
    async with Engine(store=dry_store(options), samples=samples) as engine:
        for plan in plans.values():
            found = await forecast(plan, engine, sample=options.sample, seconds=options.timeout)
            forecasts.append(found)
    changed = {name: await _changes(options, plan) for name, plan in plans.items()} if options.diff else {}
    if options.json:
        document = {one.pipeline: {**one.to_json(), **_diff(changed, one.pipeline)} for one in forecasts}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(printable("\n".join(as_text(one, changed.get(one.pipeline)) for one in forecasts)))
    return 0


def _diff(changed: dict[str, Sequence[str] | None], name: str) -> dict[str, object]:
    return {"changes": changed[name]} if name in changed else {}


async def _changes(options: ForecastOptions, plan: Plan) -> Sequence[str] | None:
    """Return the changes since the last run of the pipeline, except replays; None if it has not run."""
    from engine.cli.state import store_of
    from engine.errors import StateMissingError
    from engine.plan.identity import difference
    from engine.trial import reading_of, with_reading

    try:
        async with store_of(options) as store:
            runs = [run for run in await store.list_runs() if run.pipeline == plan.pipeline]
            runs = [run for run in runs if "replay_from" not in run.identity_doc]
    except StateMissingError:
        return None
    if not runs:
        return None
    last = runs[-1]
    plan = with_reading(plan, reading_of(last.operational_doc))  # a limit is not of the file
    return [
        *difference(last.identity_doc, plan.identity_doc),
        *difference(last.operational_doc, plan.operational_doc),
        *difference(dict(last.params), dict(plan.params)),
    ]
