"""Run the ingest service with its warehouse until SIGINT or SIGTERM.

Runs on the same state directory find it by themselves and use it instead of starting their own.
"""

from __future__ import annotations

import argparse
import sys

SUMMARY = "run the ingest service and its warehouse"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the verb takes."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=4200, help="port to listen on, 0 takes a free one (4200)")
    parser.add_argument("--state-dir", default=".odw", metavar="DIR", help="where the warehouse is (.odw)")


def execute(options: argparse.Namespace) -> int:
    """Serve; 0 after a clean end."""
    from pathlib import Path

    from engine.service.server import run

    run(Path(options.state_dir), options.host, options.port, on_ready=_say_where)
    return 0


def _say_where(url: str) -> None:
    sys.stdout.write(f"the ingest service listens at {url} (Ctrl-C ends it)\n")
    sys.stdout.flush()
