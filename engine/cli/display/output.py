"""Route progress, events and the summary to standard error and standard output."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio

from engine.cli.display.protocol import ShownRuns
from engine.cli.display.terminal import printable
from engine.cli.options import OutputOptions
from engine.contract.component import Kind
from engine.execution.events import Observer, null_observer
from engine.plan.model import Plan

NARROWEST = 40


class Output:
    """Decides what is written where, from the arguments, the terminal and the plans.

    When a sink writes to standard output, only records go there; otherwise only the summary does.

    Attributes:
        observer: receives the stages of the runs and passes them to the log, if there is one.
        records_on_stdout: whether a sink writes its records to standard output.
    """

    def __init__(self, options: OutputOptions, plans: Mapping[str, Plan]) -> None:
        self._quiet: bool = options.quiet
        self._wanted: str = "none" if options.quiet else options.progress
        self.records_on_stdout = False
        self.follow(plans)
        form = options.log_format or ("none" if sys.stderr.isatty() else "json")
        self.observer = observer_of(form, level="error" if options.quiet else "info")

    def follow(self, plans: Mapping[str, Plan]) -> None:
        """Set the plans of the runs."""
        nodes = [node for plan in plans.values() for node in plan.nodes]
        self.records_on_stdout = any(
            node.kind is Kind.SINK and (node.spec.name == "stdout" or getattr(node.params, "path", "") == "-")
            for node in nodes
        )

    @property
    def mode(self) -> str:
        """Return the progress mode: live, plain, json or none."""
        if self._wanted != "auto":
            return self._wanted
        mixed = self.records_on_stdout and sys.stdout.isatty()
        return "live" if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not mixed else "plain"

    @property
    def width(self) -> int:
        """Return the columns available to the summary."""
        stream = sys.stderr if self.records_on_stdout else sys.stdout
        return max(NARROWEST, shutil.get_terminal_size().columns) if stream.isatty() else 100

    def say(self, text: str) -> None:
        """Write one line to standard error, as JSON with `--progress json`."""
        if not self._quiet:
            line = json.dumps({"event": "message", "text": text}) if self.mode == "json" else printable(text)
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def conclude(self, text: str) -> None:
        """Write the summary, unless standard error is JSON and standard output is used by a sink."""
        if not self._quiet and not (self.records_on_stdout and self.mode == "json"):
            stream = sys.stderr if self.records_on_stdout else sys.stdout
            stream.write(printable(text))
            stream.flush()

    @asynccontextmanager
    async def progress(self, session: ShownRuns) -> AsyncGenerator[None, None]:
        """Show the progress of the session during the block."""
        if self.mode == "none":
            yield
            return
        if self.mode == "live":
            from engine.cli.display.live import show
        else:
            from engine.cli.display.plain import show_json, show_plain

            show = show_json if self.mode == "json" else show_plain
        async with anyio.create_task_group() as group:
            await group.start(show, session)
            try:
                yield
            finally:
                group.cancel_scope.cancel()


def observer_of(form: str, *, level: str = "info") -> Observer:
    """Return what writes events to the log on standard error: as `json`, for a `console`, or `none`."""
    if form == "none":
        return null_observer
    from engine.telemetry import configure_logging, log_event

    configure_logging("json" if form == "json" else "console", level=level)
    return log_event
