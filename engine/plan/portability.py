"""Check what in a file cannot work with several workers, possibly on several machines.

Uses only the checked file and its plans, contacts nothing, and is independent of the scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from engine.config.model import SANDBOX, ConnectionConfig, FileConfig, NodeConfig
from engine.config.problems import Problems, listed
from engine.config.values import Place
from engine.contract.addresses import is_loopback
from engine.contract.component import Kind, Locality, Source
from engine.errors import ConfigError, Problem
from engine.plan.model import NodeCheck, Plan, PlanNode
from engine.state.address import is_address

ONE_MACHINE = "or pass --one-machine if all workers run on this machine"


def node_check(file: FileConfig, *, one_machine: bool) -> NodeCheck:
    """Return the check that `compile_file` makes for every node.

    Args:
        one_machine: all workers are on one machine, so its files and its embedded services are shared.
    """

    def check(config: NodeConfig, node: PlanNode, problems: Problems) -> None:
        _check_locality(config, node, problems, one_machine=one_machine)
        _check_resumable(config, node, problems)
        if node.spec.needs_whole_run(node.params):
            problems.add(config.component_place, *_undivided(node))
        if not one_machine:
            _check_connection(file, config, node, problems)

    return check


def check_divisible(plan: Plan) -> None:
    """Check that a run of the plan can be divided into chunks.

    Raises:
        ConfigError: a node needs all records of a run.
    """
    found = [node for node in plan.every_node if node.spec.needs_whole_run(node.params)]
    if found:
        problems = [(node.name, *_undivided(node)) for node in found]
        raise ConfigError([Problem(f"node {name!r}: {text}", hint=hint) for name, text, hint in problems])


def _undivided(node: PlanNode) -> tuple[str, str]:
    name = node.spec.name
    if node.kind is Kind.SINK:
        return (
            f"with these parameters the sink `{name}` has to write the whole run, but chunks run separately",
            "use another `mode`, or run the pipeline locally",
        )
    return (
        f"the {node.kind} `{name}` has to see every record, but chunks run separately",
        "run the pipeline locally, or let its sink do it",
    )


def store_problems(state: str, *, one_machine: bool) -> list[Problem]:
    """Return problems if workers cannot share this state store, a directory or an address."""
    if one_machine or is_address(state):
        return []
    message = f"workers on other machines cannot reach the directory {state}"
    hint = f"name a database with --state postgresql://host/odw, {ONE_MACHINE}"
    return [Problem(message, file="--state-dir", hint=hint)]


def warnings(file: FileConfig, *, one_machine: bool) -> list[Problem]:
    """Return warnings about settings that must be the same for all workers but cannot be checked."""
    unset = {one.name: one.place for one in reversed(file.external) if not one.is_set}
    found = [
        *_together(
            unset, "not set here, so defaults apply", "set each for all workers and submitters, or none"
        )
    ]
    if one_machine:
        return found
    dotenv = {one.name: one.place for one in reversed(file.external) if one.dotenv}
    files = {
        one.name.removeprefix("file:"): one.place
        for one in reversed(file.external)
        if one.name.startswith("file:")
    }
    found += _together(dotenv, "set by the .env file here", "set each for all workers and submitters")
    found += _together(files, "files that every worker needs", "with the same text")
    return [
        *found,
        *_together(_modules(file), "modules that every worker needs", "installed, or next to its file"),
    ]


def _check_locality(config: NodeConfig, node: PlanNode, problems: Problems, *, one_machine: bool) -> None:
    locality, name = node.spec.locality_of(node.params), node.spec.name
    if locality is Locality.PROCESS:
        stream = "input" if node.kind is Kind.SOURCE else "output"
        message = (
            f"the {node.kind} `{name}` uses the standard {stream} of one process, but there are several "
            "workers"
        )
        problems.add(config.component_place, message, _instead(node.kind))
    elif locality is Locality.MACHINE and not one_machine:
        message = f"the {node.kind} `{name}` uses files of its machine, but workers may run on others"
        hint = ONE_MACHINE.removeprefix("or ")
        if node.kind is not Kind.TRANSFORM:
            hint = f"{_instead(node.kind)}, {ONE_MACHINE}"
        problems.add(config.component_place, message, hint)


def _instead(kind: Kind) -> str:
    return (
        "read from a place that all workers can reach, e.g. s3"
        if kind is Kind.SOURCE
        else "write to a place that all workers can reach, e.g. ingest"
    )


def _check_resumable(config: NodeConfig, node: PlanNode, problems: Problems) -> None:
    """Check that a source can be read again, since another worker restarts the chunk of a dead one."""
    if node.kind is not Kind.SOURCE or node.spec.locality_of(node.params) is Locality.PROCESS:
        return
    # components are cheap to build, and contact nothing before they are entered
    connection = None if node.needs_sandbox else node.connection_model()
    component = node.spec.factory(node.params, connection)
    if isinstance(component, Source) and not component.resumable:
        message = f"the source `{node.spec.name}` can be read only once, but a chunk may have to start over"
        hint = "declare `repeatable` when it gives the same records again, or a `key` that names each"
        problems.add(config.component_place, message, hint)


def _check_connection(file: FileConfig, config: NodeConfig, node: PlanNode, problems: Problems) -> None:
    reference = node.connection
    if reference is None:
        return
    entry = file.connections.get(reference.name)
    named = config.arguments.get("connection")
    place = entry.place if entry else (named.place if named else config.component_place)
    if reference.sandbox:
        names = _variables_for(file, entry) if entry else []
        hint = f"set {listed(names)}" if names else "give the address of the real service"
        message = f"only the machine that runs the embedded `{node.needs_sandbox}` can reach it"
        problems.add(place, message, f"{hint}, {ONE_MACHINE}")
        return
    for name, value in reference.values.items():
        if isinstance(value, str) and _is_loopback(value):
            found = entry.fields.get(name) if entry else None
            message = f"`{name}` is a loopback address, so each worker would connect to its own machine"
            hint = f"give the service's network name or address, {ONE_MACHINE}"
            problems.add(found.place if found else place, message, hint)


def _is_loopback(text: str) -> bool:
    """Return whether a text is a loopback URL."""
    if "://" not in text:
        return False
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


def _variables_for(file: FileConfig, entry: ConnectionConfig) -> list[str]:
    """Return the variables whose absence makes a connection `sandbox`."""
    paths = [field.place.path for _, field in entry.fields.items() if field.data == SANDBOX]
    if not entry.fields.data:
        paths = [entry.place.path]
    return list(dict.fromkeys(one.name for one in file.external if one.place.path in paths))


def _together(found: dict[str, Place], message: str, hint: str) -> Iterator[Problem]:
    """Return one warning about all of them, at the place of the first; they are given last to first."""
    if found:
        names = list(reversed(found))
        yield found[names[0]].problem(f"{message}: {listed(names)}", hint)


def _modules(file: FileConfig) -> dict[str, Place]:
    nodes = [node for pipeline in file.pipelines.values() for node in pipeline.nodes]
    return {
        node.component.partition(":")[0]: node.component_place
        for node in reversed(nodes)
        if ":" in node.component
    }
