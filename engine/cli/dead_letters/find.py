"""Find dead letters in the state store and in the ingest services of the file and state directory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import BaseModel, SecretStr

from engine.cli.display.terminal import printable
from engine.cli.loading import load_plans
from engine.cli.options import DEFAULT_FILE, DlqOptions, PlanOptions
from engine.dead_letters.search import (
    DeadLetterMatch,
    DeadLetterQuery,
    search_dead_letters,
    search_service_letters,
)
from engine.errors import ConfigError, EngineError, ServiceError
from engine.plan.model import Plan
from engine.sandbox.client import sandbox
from engine.service.client import ServiceClient, open_service
from engine.service.discovery import warehouse_file
from engine.state.store import StateStore

INGEST = "ingest"


def plans_of(options: DlqOptions, *, needed: bool) -> dict[str, Plan]:
    """Return the plans of the file; none if it was not named and does not exist.

    Args:
        needed: False skips an invalid file with a note instead of raising an error.

    Raises:
        ConfigError: the file is not valid.
    """
    named = options.file is not None
    file = options.file or DEFAULT_FILE
    if not named and not Path(file).exists():
        return {}
    try:
        return load_plans(PlanOptions(file=file, param=options.param, assignments=options.assignments))
    except ConfigError:
        if needed or named:
            raise
        _warn(f"{file} is not valid (see `validate`): services named only there are skipped")
        return {}


def query_of(options: DlqOptions, status: str) -> DeadLetterQuery:
    """Return the query that the arguments describe."""
    return DeadLetterQuery(
        run_id=options.run,
        pipeline=options.pipeline,
        node=options.node,
        key=options.key,
        status=status,
        names=options.names,
    )


async def collect(
    stack: AsyncExitStack,
    store: StateStore,
    plans: Mapping[str, Plan],
    options: DlqOptions,
    query: DeadLetterQuery,
) -> list[DeadLetterMatch]:
    """Collect the dead letters, oldest first; name unreachable services on standard error.

    Args:
        stack: closes the connections to the services.
    """
    services: list[ServiceClient] = []
    if options.store != "engine":
        for url, token in (await _addresses(stack, plans, Path(options.state_dir))).items():
            client = await stack.enter_async_context(open_service(url, token))
            if await _answers(client):
                services.append(client)
    search = search_service_letters if options.store == "service" else search_dead_letters
    return await search(store, services, query)


async def _answers(client: ServiceClient) -> bool:
    try:
        await client.check()
    except ServiceError as error:
        _warn(f"{error}; its dead letters are skipped")
        return False
    return True


async def _addresses(stack: AsyncExitStack, plans: Mapping[str, Plan], state_dir: Path) -> dict[str, str]:
    """The services by their URLs, with the token of each."""
    found: dict[str, str] = {}
    for node in (node for plan in plans.values() for node in plan.every_node):
        if node.spec.sandbox == INGEST and not node.needs_sandbox:
            url, token = _address(node.connection_model())
            found.setdefault(url, token)
    if warehouse_file(state_dir).exists():
        try:
            addresses = await stack.enter_async_context(sandbox([INGEST], state_dir))
        except EngineError as error:
            _warn(f"cannot open the warehouse in {state_dir}: {error}")
        else:
            found.setdefault(addresses[INGEST]["url"], "")
    return found


def _address(connection: BaseModel | None) -> tuple[str, str]:
    token = getattr(connection, "token", None)
    return str(getattr(connection, "url", "")), token.get_secret_value() if isinstance(
        token, SecretStr
    ) else ""


def _warn(text: str) -> None:
    sys.stderr.write(printable(f"warning: {text}\n"))
