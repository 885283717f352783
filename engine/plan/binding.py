"""Bind the names of a node to its specification, parameters and connection."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ValidationError

from engine.config.model import SANDBOX, ConnectionConfig, NodeConfig
from engine.config.problems import Problems, listed, unknown
from engine.config.validation import allows_null, field_names, validate
from engine.config.values import Value
from engine.contract.component import ComponentSpec, Params
from engine.errors import RegistryError
from engine.extras import SANDBOX_EXTRAS, install_command, missing_modules
from engine.plan.model import ConnectionRef, PlanNode
from engine.registry import Registry


def bind(
    node: NodeConfig, connections: Mapping[str, ConnectionConfig], registry: Registry, problems: Problems
) -> PlanNode | None:
    """Look up and validate a node; on failure, report to `problems` and return None."""
    spec = _spec(node, registry, problems)
    if spec is None or node.arguments.failed:
        return None
    arguments = node.arguments
    takes_name = "connection" in spec.params.model_fields
    params = validate(spec.params, _for_params(arguments, spec.params, takes_name), problems)
    named = arguments.get("connection")
    if spec.connection is None:
        if named is not None and not takes_name:
            problems.add(named.place, f"the {spec.kind} `{spec.name}` takes no connection")
            return None
        return _node(node, spec, params, None) if params is not None else None
    connection = _connection(spec, spec.connection, node, named, connections, problems)
    if connection is not None and connection.sandbox:
        _check_installed(node, SANDBOX_EXTRAS.get(spec.sandbox, ""), "the sandbox", problems)
    if params is None or connection is None:
        return None
    if isinstance(params, Params):
        for name, message in params.misfits(connection.values):
            given = arguments.get(name)
            problems.add(given.place if given is not None else node.component_place, message)
    return _node(node, spec, params, connection)


def _node(
    config: NodeConfig, spec: ComponentSpec, params: BaseModel, connection: ConnectionRef | None
) -> PlanNode:
    branches: dict[str, tuple[str, ...]] = {}
    for given in config.inputs:
        if given.branch:
            branches[given.name] = (*branches.get(given.name, ()), given.branch)
    inputs = tuple(dict.fromkeys(given.name for given in config.inputs))
    return PlanNode(config.name, spec, params, connection, inputs, config.options, branches)


def _for_params(arguments: Value, model: type[BaseModel], takes_name: bool) -> Value:
    """Return the arguments without `connection` and without nulls where a field does not allow null.

    This lets a nullable run parameter be passed to a component's optional parameter.
    """
    nulls = [
        info.alias or name
        for name, info in model.model_fields.items()
        if not info.is_required() and not allows_null(info.annotation)
    ]
    left_out = [name for name, value in arguments.items() if value.data is None and not value.failed]
    dropped = [name for name in left_out if name in nulls]
    return arguments.without(*dropped) if takes_name else arguments.without("connection", *dropped)


def _spec(node: NodeConfig, registry: Registry, problems: Problems) -> ComponentSpec | None:
    known = registry.names()
    if ":" not in node.component and (node.kind, node.component) not in known:
        others = [kind for kind, name in known if name == node.component]
        if others:
            message = f"`{node.component}` is a {' and a '.join(others)}, not a {node.kind}"
            problems.add(node.component_place, message, f"write {others[0]}: {node.component}")
        else:
            names = [name for kind, name in known if kind is node.kind]
            problems.add(node.component_place, unknown(node.kind, node.component, names))
        return None
    try:
        spec = registry.get(node.kind, node.component)
    except RegistryError as error:
        problems.add(node.component_place, str(error))
        return None
    _check_installed(node, spec.extra, f"`{node.component}`", problems)
    return spec


def _check_installed(node: NodeConfig, extra: str, what: str, problems: Problems) -> None:
    missing = missing_modules(extra)
    if missing:
        message = f"{what} needs packages that are not installed ({', '.join(missing)})"
        problems.add(node.component_place, message, install_command([extra]))


def _connection(
    spec: ComponentSpec,
    model: type[BaseModel],
    node: NodeConfig,
    named: Value | None,
    connections: Mapping[str, ConnectionConfig],
    problems: Problems,
) -> ConnectionRef | None:
    if named is not None and named.failed:
        return None
    if named is None or named.data is None:
        return _fitting(spec, model, node, connections, problems)
    if named.data == SANDBOX and SANDBOX not in connections:
        return _checked(spec, model, ConnectionConfig(SANDBOX, Value({}, named.place), True), problems)
    if not isinstance(named.data, str):
        problems.add(named.place, "expected the name of an entry of `connections`")
        return None
    if named.data not in connections:
        problems.add(named.place, unknown("connection", named.data, connections))
        return None
    return _checked(spec, model, connections[named.data], problems)


def _fitting(
    spec: ComponentSpec,
    model: type[BaseModel],
    node: NodeConfig,
    connections: Mapping[str, ConnectionConfig],
    problems: Problems,
) -> ConnectionRef | None:
    """Return the only connection with the model's fields; without one, `sandbox` or the model's defaults."""
    candidates = [connection for connection in connections.values() if _fits(connection, model)]
    if len(candidates) > 1:
        message = f"`{spec.name}` could use any of the connections {listed(c.name for c in candidates)}"
        hint = f"name one: with: {{connection: {candidates[0].name}}}"
        problems.add(node.component_place, message, hint)
        return None
    if not candidates:
        # Entries that are only `sandbox` are interchangeable: each means the service that is needed.
        candidates = [c for c in connections.values() if c.sandbox and not c.fields.data][:1]
    if candidates:
        return _checked(spec, model, candidates[0], problems)
    try:
        model.model_validate({})
    except ValidationError:
        fields = listed(field_names(model))
        hint = f"add one under `connections:` with fields of {fields}"
        if connections:
            hint += f"; known: {listed(connections)}"
        problems.add(node.component_place, f"`{spec.name}` needs a connection, but no entry fits", hint)
        return None
    return ConnectionRef("")


def _fits(connection: ConnectionConfig, model: type[BaseModel]) -> bool:
    given = {name for name, _ in connection.fields.items()}
    if not given or not given <= _spellings(model):
        return False
    return connection.sandbox or not _missing(connection, model)


def _spellings(model: type[BaseModel]) -> set[str]:
    return {*field_names(model), *model.model_fields}


def _missing(connection: ConnectionConfig, model: type[BaseModel]) -> list[str]:
    return [
        info.alias or name
        for name, info in model.model_fields.items()
        if info.is_required()
        and not any(_is_given(connection.fields.get(key)) for key in (name, info.alias) if key)
    ]


def _is_given(value: Value | None) -> bool:
    """Treat an empty text as no value: `${API_KEY:-}` leaves an optional field out."""
    return value is not None and value.data not in ("", None)


def _checked(
    spec: ComponentSpec, model: type[BaseModel], connection: ConnectionConfig, problems: Problems
) -> ConnectionRef | None:
    if connection.fields.failed:
        return None
    if connection.sandbox and not spec.sandbox:
        message = f"`{spec.name}` has no sandbox"
        problems.add(connection.place, message, f"give the fields of connection `{connection.name}`")
        return None
    left_out = [
        name
        for name, value in connection.fields.items()
        if not _is_given(value) or (connection.sandbox and value.data == SANDBOX)
    ]
    given = connection.fields.without(*left_out)
    missing = [] if connection.sandbox else _missing(connection, model)
    if missing:
        message = f"connection `{connection.name}` lacks {listed(missing)}"
        problems.add(connection.place, message, f"needed by the {spec.kind} `{spec.name}`")
    before = len(problems.all())
    if model.model_config.get("extra") in (None, "ignore"):  # Pydantic would ignore misspelt fields
        known = _spellings(model)
        for name in dict(given.items()):
            if name not in known:
                problems.add(given.key_place(name), unknown("key", name, field_names(model)))
    validate(model, given, problems, partial=bool(missing) or connection.sandbox)
    if missing or len(problems.all()) > before:
        return None
    return ConnectionRef(connection.name, MappingProxyType(given.plain()), connection.sandbox)
