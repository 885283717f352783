"""Helpers shared by the verbs of durable runs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from engine.cli.arguments import this_command
from engine.cli.durable.options import DurableOptions, RequestOptions, ServerArguments
from engine.cli.options import DEFAULT_FILE
from engine.cli.state import run_id_of, state_options, store_of

if TYPE_CHECKING:
    from temporalio.client import Client

    from engine.temporal.messages import PipelineRequest
    from engine.temporal.starting import Handle

DEFAULT_QUEUE = "odw"


def require_temporal() -> None:
    """Check that the extra is installed. Raises `RegistryError`."""
    from importlib.util import find_spec

    import anyio  # noqa: F401 - where even this is missing, the SDK is not what has to be installed

    from engine.errors import RegistryError
    from engine.extras import install_command

    if find_spec("temporalio") is None:
        raise RegistryError(f"durable runs need the Temporal SDK: {install_command(['temporal'])}")


async def client_of(options: ServerArguments) -> Client:
    """Connect a client according to the arguments."""
    from engine.temporal.connection import ServerOptions, connect

    return await connect(ServerOptions(options.address, options.namespace, options.profile, options.codec))


def request_of(options: RequestOptions, pipeline: str, **fields: object) -> PipelineRequest:
    """Create a request from the options."""
    from engine.temporal.messages import PipelineRequest, Queues

    return PipelineRequest(
        pipeline,
        shards=options.shards,
        window=options.window,
        chunk_splits=options.chunk_splits,
        max_failed_chunks=options.max_failed_chunks,
        priority=options.priority,
        heartbeat=float(options.heartbeat),
        queues=Queues.named(options.queue),
        **fields,  # type: ignore[arg-type]
    )


async def workflow_of(options: DurableOptions) -> tuple[Client, Handle]:
    """Find the workflow of `options.run`, even if the run is not in the state store.

    That is one that no worker has taken up yet, or whose workers have another store.

    Raises:
        RunNotFoundError: neither the store nor the server knows it.
        ServiceError: the server cannot be reached.
    """
    from engine.errors import RunNotFoundError, StateMissingError
    from engine.temporal.starting import find, find_submitted

    try:
        async with store_of(options) as store:
            record = await store.get_run(await run_id_of(store, options.run))
    except (RunNotFoundError, StateMissingError) as error:
        client = await client_of(options)
        handle = await find_submitted(client, options.run.rsplit("/", 1)[-1])
        if handle is None:
            error.add_note(f"The Temporal server ({client.namespace}) has no workflow of that run either.")
            raise
        return client, handle
    client = await client_of(options)
    return client, await find(client, record)


def command(verb: str, run_id: str, options: DurableOptions) -> str:
    """Return another command for the same run; FILE in place of an unknown file."""
    text = verb
    if verb == "submit":
        file = options.file if options.wait else "FILE"  # `watch` takes none
        text += ("" if file == DEFAULT_FILE else f" {shlex.quote(file)}") + " --resume"
    text += f" {run_id}{state_options(options)}"
    for name in ("address", "namespace", "profile", "codec"):
        if value := getattr(options, name):
            text += f" --{name} {shlex.quote(value)}"
    if verb == "submit" and options.queue != DEFAULT_QUEUE:
        text += f" --queue {shlex.quote(options.queue)}"
    return f"{this_command()} {text}"
