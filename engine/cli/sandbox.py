"""Run the embedded services until standard input ends or a signal arrives.

Prints a line of JSON with their addresses once all of them answer. A run with a `sandbox` connection starts
them itself; use this verb to inspect the services of such a run.
"""

from __future__ import annotations

import argparse

from engine.cli.options import SandboxOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--services", metavar="NAMES", help="services to run: s3, llm, ingest (default: all)")
    parser.add_argument("--state-dir", metavar="DIR", help="directory of the warehouse (default: .odw)")
    parser.add_argument("--samples", metavar="DIR", help="sample documents for S3")
    parser.add_argument(
        "--no-stdin", action="store_true", help="serve until a signal arrives; ignore standard input"
    )


def execute(options: SandboxOptions) -> int:
    """Serve until stopped; 0 after a clean end."""
    from engine.sandbox.server import main

    arguments = ["--services", options.services, "--state-dir", options.state_dir]
    if options.samples:
        arguments += ["--samples", options.samples]
    return main([*arguments, "--no-stdin"] if options.no_stdin else arguments)
