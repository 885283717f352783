"""Check a file and report every problem with its file, line and column.

Starts, opens and contacts nothing. Exit code 0 if the file is valid, 2 otherwise. `--target temporal` also
reports what cannot work on other machines, and warns about what every worker needs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.cli.arguments import add_options
from engine.cli.options import FileOptions, PlanOptions, StateOptions, ValidateOptions

if TYPE_CHECKING:
    from engine.errors import Problem
    from engine.plan.model import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, FileOptions)
    add_options(parser, PlanOptions)
    add_options(parser, ValidateOptions, "target", "one_machine")
    add_options(parser, StateOptions)
    add_options(parser, ValidateOptions, "json")


def execute(options: ValidateOptions) -> int:
    """Print the problems."""
    from engine.cli.display.numbers import counted
    from engine.contract.component import Params
    from engine.errors import ConfigError
    from engine.plan.claims import own_output, replaced_by_changes
    from engine.plan.drawing import chains

    plans: dict[str, Plan] = {}
    warnings: list[Problem] = []
    try:
        plans = _remote(options, warnings) if options.target == "temporal" else _local(options, warnings)
    except ConfigError as error:
        if not options.json:
            _warn(warnings)
            raise
        sys.stdout.write(_as_json({}, error.problems, warnings))
        return 2
    warnings += [*own_output(plans.values()), *replaced_by_changes(plans.values())]
    if options.json:
        sys.stdout.write(_as_json(plans, (), warnings))
        return 0
    _warn(warnings)
    nodes = sum(len(plan.nodes) for plan in plans.values())
    what = "valid" if options.target == "local" else "valid, and can run on Temporal"
    counts = f"{counted(len(plans), 'pipeline')}, {counted(nodes, 'node')}"
    sys.stdout.write(f"{options.file}: {counts}: {what}\n")
    for name, plan in plans.items():
        sys.stdout.write(f"  {name}: {chains(plan)}\n")
        for node in plan.nodes:
            notes = node.params.notes() if isinstance(node.params, Params) else []
            sys.stdout.writelines(f"    {node.name}: {note}\n" for note in notes)
    return 0


def _local(options: ValidateOptions, warnings: list[Problem]) -> dict[str, Plan]:
    from engine.cli.loading import load_plans
    from engine.errors import Problem
    from engine.plan.claims import clashes_together

    plans = load_plans(options)
    if clashes_together(plans.values()):
        from engine.execution.session import starting

        together = clashes_together(plans[name] for name in starting(plans))
        what = "`run` refuses to start these pipelines together"
        warnings += [Problem(f"{what}: {one.message}", hint=one.hint) for one in together]
    return plans


def _remote(options: ValidateOptions, warnings: list[Problem]) -> dict[str, Plan]:
    from engine.cli.loading import load_config
    from engine.cli.state import state_of
    from engine.errors import ConfigError
    from engine.plan import portability as remote
    from engine.plan.compile import compile_file
    from engine.registry import Registry

    file, one_machine = load_config(options), options.one_machine
    warnings += remote.warnings(file, one_machine=one_machine)
    problems = remote.store_problems(state_of(options), one_machine=one_machine)
    try:
        plans = compile_file(
            file, Registry.installed(), check=remote.node_check(file, one_machine=one_machine)
        )
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return plans


def _warn(warnings: Sequence[Problem]) -> None:
    for warning in warnings:
        sys.stderr.write(f"warning: {warning}\n")


def _as_json(plans: Mapping[str, Plan], problems: Sequence[Problem], warnings: Sequence[Problem]) -> str:
    import json
    from dataclasses import asdict

    document = {
        "valid": not problems,
        "problems": [asdict(problem) for problem in problems],
        "warnings": [asdict(warning) for warning in warnings],
        "pipelines": {
            name: {"identity": plan.identity, "nodes": [node.name for node in plan.nodes]}
            for name, plan in plans.items()
        },
    }
    return json.dumps(document, indent=2) + "\n"
