"""Run the embedded services until standard input ends or a signal arrives.

Prints a line of JSON with their addresses once all of them answer. A run with a `sandbox` connection starts
them itself; use this verb to inspect the services of such a run.
"""

from __future__ import annotations

from engine.cli.options import SandboxOptions


def execute(options: SandboxOptions) -> int:
    """Serve until stopped; 0 after a clean end."""
    from engine.sandbox.server import main

    arguments = ["--services", options.services, "--state-dir", options.state_dir]
    if options.samples:
        arguments += ["--samples", options.samples]
    return main([*arguments, "--no-stdin"] if options.no_stdin else arguments)
