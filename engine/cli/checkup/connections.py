"""Check the connections of a file: which credentials are given, and whether the service accepts them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
from pydantic import BaseModel, ValidationError

from engine.cli.checkup.findings import Finding, Level
from engine.cli.checkup.network import address_of, ask, secrets_in_address
from engine.config.validation import holds_secret
from engine.contract.checking import ChecksConnection, ChecksOthers
from engine.contract.component import Context, Kind, Source
from engine.errors import EngineError
from engine.plan.model import Plan, PlanNode
from engine.redaction import without_credentials

_SECRET = re.compile(r"(^|_)(key|token|secret|password|credentials?|user|profile)$")
AT_ONCE = 4


@dataclass
class Checkup:
    """Findings about connections; `skews`: seconds by which this machine's clock is ahead, by server."""

    findings: list[Finding] = field(default_factory=list)
    skews: list[float] = field(default_factory=list)


async def check_connections(plans: Mapping[str, Plan], seconds: float) -> Checkup:
    """Try every connection, and list the beginning of every source, once each.

    Args:
        seconds: timeout for each of them.
    """
    checkup, limiter = Checkup(), anyio.CapacityLimiter(AT_ONCE)
    places: dict[str, PlanNode] = {}
    for name, plan in plans.items():
        for node in plan.every_node:
            if node.kind is Kind.SOURCE:
                places[f"{name}.{node.name}"] = node
            elif node.connection is not None:
                places.setdefault(f"connection {node.connection.name or node.spec.name}", node)
    results: dict[str, list[Finding]] = {}

    async def look(place: str, node: PlanNode) -> None:
        async with limiter:
            results[place] = [one async for one in _findings(place, node, seconds, checkup.skews)]

    async with anyio.create_task_group() as group:
        for place, node in places.items():
            group.start_soon(look, place, node)
    checkup.findings = [finding for place in places for finding in results[place]]
    return checkup


async def _findings(place: str, node: PlanNode, seconds: float, skews: list[float]) -> Any:
    if node.needs_sandbox:
        yield Finding(Level.OK, place, f"embedded {node.needs_sandbox} service")
        if isinstance(node.spec.factory, type) and issubclass(node.spec.factory, ChecksOthers):
            level, result, remedy = await _tried(node, node.connection_model(), seconds, embedded=True)
            if result:
                yield Finding(level, place, result, remedy)
        return
    try:
        connection = node.connection_model()
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        yield Finding(Level.PROBLEM, place, f"not valid: check {fields}")
        return
    suffix = _credentials(connection)
    if address := address_of(connection):
        answer = await anyio.to_thread.run_sync(ask, address, seconds, abandon_on_cancel=True)
        if answer.skew is not None:
            skews.append(answer.skew)
        if not answer.reached:
            yield Finding(Level.PROBLEM, place, answer.found + suffix, answer.remedy)
            return
        found = answer.found
    else:
        found = ""
    level, result, remedy = await _tried(node, connection, seconds)
    shown = "; ".join(part for part in (result, "" if result and level is not Level.OK else found) if part)
    yield Finding(level, place, (shown or "nothing to reach") + suffix, remedy)


async def _tried(
    node: PlanNode, connection: BaseModel | None, seconds: float, *, embedded: bool = False
) -> tuple[Level, str, str]:
    """Return the component's own findings once it is opened; embedded services are skipped."""
    try:
        with anyio.fail_after(seconds):
            component = node.spec.factory(node.params, connection)
            component.ctx = Context(node=node.name)
            if embedded and isinstance(component, ChecksOthers):
                return Level.OK, await component.check_others(), ""
            if isinstance(component, ChecksConnection):
                return Level.OK, await component.check_connection(), ""
            if not isinstance(component, Source):
                return Level.OK, "", ""  # opening a sink may create its target
            async with component:
                return Level.OK, await _listed(component), ""
    except TimeoutError:
        return Level.WARNING, f"no answer within {seconds:g} s", "check the network, or raise --timeout"
    except EngineError as error:
        return Level.PROBLEM, without_credentials(str(error)), ""
    except Exception as error:  # noqa: BLE001 - boundary to a connector's code, which may raise anything
        text = without_credentials(f"{type(error).__name__}: {error}")
        return Level.PROBLEM, text, "ODW_TRACEBACK=1 with `run --limit 1` shows where it happened"


async def _listed(source: Source[Any]) -> str:
    async with aclosing(source.splits(source.ctx)) as splits:  # type: ignore[type-var]
        async for split in splits:
            named = split.key != "all" and not split.key.isdecimal()
            return f"can be listed, begins with {split.key}" if named else "can be listed"
    return "can be listed, and is empty"


def credentials_of(connection: BaseModel) -> list[str]:
    """Return which credentials a connection has: names of fields, and parts of its address."""
    model = type(connection)
    return [name for name in _secret_fields(model) if getattr(connection, name)] + secrets_in_address(
        connection
    )


def _secret_fields(model: type[BaseModel]) -> list[str]:
    return [name for name in model.model_fields if _SECRET.search(name) or holds_secret(model, name)]


def _credentials(connection: BaseModel | None) -> str:
    """Name the given credentials, never their values; "" for connections that take none."""
    if connection is None:
        return ""
    if given := credentials_of(connection):
        return f" ({', '.join(given)} given)"
    # the connector may find some on this machine, e.g. in an AWS profile or ~/.pgpass
    return " (no credentials in the file)" if _secret_fields(type(connection)) else ""
