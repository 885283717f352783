"""Watch durable runs until they end, and summarize them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

import anyio
from temporalio.client import Client

from engine.cli.display.output import Output
from engine.cli.display.summary import summary
from engine.cli.durable.options import DurableOptions
from engine.cli.durable.server import command, workflow_of
from engine.cli.durable.watched_run import Watched, WatchedRuns
from engine.cli.exit_codes import ExitCode, most_serious
from engine.cli.state import shown_state, store_of
from engine.errors import StateMissingError
from engine.state import StateStore
from engine.state.memory import MemoryStateStore
from engine.temporal.starting import Handle


async def watch(options: DurableOptions) -> int:
    """Show a run until it ends.

    Raises:
        RunNotFoundError: neither the store nor the server knows it.
        ServiceError: the server cannot be reached, or has lost the run meanwhile.
    """
    client, handle = await workflow_of(options)
    return int(await follow(client, {options.run: handle}, options))


async def follow(client: Client, handles: Mapping[str, Handle], options: DurableOptions) -> ExitCode:
    """Show the workflows of runs until they end; return the most serious exit code.

    Raises:
        ServiceError: the server has lost a run.
    """
    output = Output(replace(options, log_format="none"), {})
    left = list(handles)
    codes: list[ExitCode] = []
    try:
        for run_id, handle in handles.items():
            codes.append(await _to_its_end(Watched(client, handle, run_id), options, output))
            left.remove(run_id)
    except anyio.get_cancelled_exc_class():  # Ctrl-C
        for run_id in left:
            output.say(
                f"{run_id} is still running; to watch it: {command('watch', run_id, options)}\n"
                f"  to cancel it: {command('cancel', run_id, options)}"
            )
        raise
    return most_serious(codes)


async def _to_its_end(watched: Watched, options: DurableOptions, output: Output) -> ExitCode:
    async with AsyncExitStack() as stack:
        store = await _store(options, stack)
        await watched.look(store)  # so that the first frame shows the run's state
        async with output.progress(WatchedRuns({watched.run_id: watched})):
            await watched.until_ended(store)
        report = await watched.conclude(store)
    text = summary([report], options, width=output.width, resumable=False)
    if watched.known and not report.ok:
        text += f"{report.pipeline}: to resume: {command('submit', watched.run_id, options)}\n"
    output.conclude(text)
    if watched.elsewhere:
        if watched.code is ExitCode.COMPLETED:  # without the run's store, deliveries are unknown
            watched.code = ExitCode.ENVIRONMENT
        output.say(
            f"{watched.run_id} is not in the state store {shown_state(options)}, so only the counts that "
            "its workflow reports are shown: name the workers' state store with --state or --state-dir"
        )
    return watched.code


async def _store(options: DurableOptions, stack: AsyncExitStack) -> StateStore:
    """Return the named store; if it is missing, create it for a new run, else use one in memory."""
    try:
        return await stack.enter_async_context(store_of(options, create=options.wait))
    except StateMissingError:
        return await stack.enter_async_context(MemoryStateStore())
