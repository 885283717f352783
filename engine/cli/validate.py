"""Check a file: everything that is wrong with it, each with its file, line and column.

Nothing is started, opened or reached. Exit code 0 when nothing is wrong, 2 otherwise.
"""

from __future__ import annotations

import argparse
import sys

from engine.cli.arguments import add_file_arguments

SUMMARY = "check a file without running anything"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    add_file_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(options: argparse.Namespace) -> int:
    """Print what was found."""
    from engine.cli.loading import load_plans
    from engine.errors import ConfigError

    try:
        plans = load_plans(options)
    except ConfigError as error:
        if not options.json:
            raise
        sys.stdout.write(_as_json({}, error))
        return 2
    if options.json:
        sys.stdout.write(_as_json(plans, None))
        return 0
    nodes = sum(len(plan.nodes) for plan in plans.values())
    sys.stdout.write(f"{options.file}: {_count(len(plans), 'pipeline')}, {_count(nodes, 'node')}: valid\n")
    for name, plan in plans.items():
        sys.stdout.write(f"  {name}: {' → '.join(node.name for node in plan.nodes)}\n")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _as_json(plans: object, error: object) -> str:
    import json
    from dataclasses import asdict

    from engine.errors import ConfigError
    from engine.plan import Plan

    problems = [asdict(problem) for problem in error.problems] if isinstance(error, ConfigError) else []
    pipelines = {
        name: {"identity": plan.identity, "nodes": [node.name for node in plan.nodes]}
        for name, plan in (plans.items() if isinstance(plans, dict) else ())
        if isinstance(plan, Plan)
    }
    return json.dumps({"valid": not problems, "problems": problems, "pipelines": pipelines}, indent=2) + "\n"
