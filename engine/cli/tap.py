"""Print the records that come out of a node, as JSON lines.

With NODE, runs a trial: the first records of each source go through the transforms. Nothing is delivered:
sinks are left out, and so are nodes that pay for their answers, with everything after them.

With RUN and NODE, prints samples of the records that leave the node of a run in progress. Its process must be
yours and on this machine. The run does not wait for them, and nothing is stored. Fields that the file hides
(`mask`, `redact`) stay hidden.

  python -m engine tap orders.clean              # a trial: 10 records of `orders`
  python -m engine tap clean etl.yaml --limit 1
  python -m engine tap orders clean              # the newest run in progress of `orders`
  python -m engine tap orders-20260131T120000-4f2a1b clean
"""

from __future__ import annotations

import argparse
import os
import sys

from engine.cli.arguments import add_options
from engine.cli.options import StateOptions, TapOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, TapOptions, "node", "file", "limit", "param", "assignments")
    add_options(parser, StateOptions)


def execute(options: TapOptions) -> int:
    """Print the records."""
    from engine.cli.event_loop import on_event_loop

    if options.file.endswith((".yaml", ".yml")) or os.path.isfile(options.file):
        return on_event_loop(lambda: _run(options))
    from engine.cli.local.tapping import tap_run

    return on_event_loop(lambda: tap_run(options))


async def _run(options: TapOptions) -> int:
    import json

    from engine.cli.exit_codes import ExitCode
    from engine.cli.loading import load_plans
    from engine.cli.local.trial import dry_store
    from engine.config.problems import unknown
    from engine.dead_letters.queue import as_json
    from engine.errors import ConfigError, Problem
    from engine.execution.engine import Engine
    from engine.preview import sample_through
    from engine.trial import Reading, paying_nodes

    Reading(limit=options.limit)  # checks the number
    places = {
        f"{name}.{node.name}": (plan, node.name)
        for name, plan in load_plans(options).items()
        for node in plan.nodes
        if plan.downstream(node.name)
    }
    found = [place for place in places if options.node in (place, place.partition(".")[2])]
    if len(found) > 1:
        raise ConfigError(f"several pipelines have `{options.node}`: write one of {', '.join(found)}")
    if not found:
        hint = "of a run in progress: `tap RUN NODE`" if "-" in options.node else ""
        raise ConfigError([Problem(unknown("node", options.node, places), hint=hint)])
    plan, name = places[found[0]]
    async with Engine(store=dry_store(options)) as engine:
        sampled = await sample_through(plan, engine, options.limit)
    for record in sampled.output[name]:
        sys.stdout.write(json.dumps(as_json(record)[0], ensure_ascii=False) + "\n")
    died = ", ".join(f"{number} died at `{node}`" for node, number in sampled.died.items())
    notes = [died, sampled.error]
    if not sampled.output[name] and (paying := paying_nodes(plan)):
        notes.append(f"not asked, because answers cost money: {', '.join(paying)}")
    for note in filter(None, notes):
        sys.stderr.write(f"{plan.pipeline}: {note}\n")
    return ExitCode.FAILED if sampled.error else ExitCode.COMPLETED
