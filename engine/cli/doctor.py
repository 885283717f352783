"""Check this machine and everything that a file needs; report what is wrong and how to fix it.

Checks Python, the installed extras, the state directory and the disk, the file, every connection (with its
credentials, which are never shown), every source (the beginning of its listing), and this machine's clock.
Nothing is delivered, stored or paid for.

Exit codes: 0 nothing is wrong, 2 the file is not valid, 3 something else is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from engine.cli.options import DoctorOptions

if TYPE_CHECKING:
    from engine.cli.checkup.findings import Finding


def execute(options: DoctorOptions) -> int:
    """Print the findings."""
    import json

    from engine.cli.checkup.findings import as_json, as_text, exit_code
    from engine.cli.display.table import terminal_width
    from engine.cli.display.terminal import printable
    from engine.cli.event_loop import on_event_loop

    findings: list[Finding] = []

    async def examine() -> int:
        findings.extend(await _examine(options))
        return exit_code(findings)

    code = on_event_loop(examine)
    if options.json:
        sys.stdout.write(json.dumps(as_json(findings), indent=2) + "\n")
    else:
        sys.stdout.write(printable(as_text(findings, terminal_width())))
    return code


async def _examine(options: DoctorOptions) -> list[Finding]:
    import os

    from engine.cli.checkup import machine
    from engine.cli.checkup.connections import check_connections
    from engine.cli.checkup.findings import Finding, Level
    from engine.cli.checkup.network import clock
    from engine.cli.display.numbers import counted
    from engine.cli.exit_codes import ExitCode
    from engine.cli.loading import load_plans
    from engine.cli.options import DEFAULT_FILE
    from engine.errors import ConfigError

    findings = [*machine.interpreter(), *await machine.state(options)]
    if options.file == DEFAULT_FILE and not os.path.exists(options.file):  # noqa: ASYNC240 - nothing else runs yet
        return [*findings, Finding(Level.NOTE, "file", f"no {DEFAULT_FILE} here", "name one: doctor FILE")]
    try:
        plans = load_plans(options)
    except ConfigError as error:
        wrong = [
            Finding(Level.PROBLEM, "file", str(problem), code=ExitCode.USAGE) for problem in error.problems
        ]
        return [*findings, *wrong]
    nodes = sum(len(plan.nodes) for plan in plans.values())
    findings.append(
        Finding(
            Level.OK, "file", f"{options.file}: {counted(len(plans), 'pipeline')}, {counted(nodes, 'node')}"
        )
    )
    found = await check_connections(plans, options.timeout)
    return [*findings, *found.findings, *clock(found.skews)]
