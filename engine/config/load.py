"""Load a file, or a mapping of the same shape, as a `FileConfig`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import ValidationError

from engine.config.aliases import read_aliases, with_own_names
from engine.config.environment import file_reader, load_environment
from engine.config.interpolation import Scope, interpolate
from engine.config.model import SANDBOX, ConnectionConfig, ExternalValue, FileConfig, PipelineConfig
from engine.config.overrides import Overrides, apply_assignments, check_param_names
from engine.config.pipeline import check_name, read_pipeline, without_nulls
from engine.config.problems import Problems, describe, nearest
from engine.config.sections import FileSection
from engine.config.validation import validate
from engine.config.values import Place, Value, from_plain
from engine.config.yaml_document import MAX_BYTES, parse_bytes
from engine.contract.types import JsonValue
from engine.errors import ConfigError, Problem
from engine.service.declared import DeclarationError, Declared, WarehouseSection

VERSION: Final = 1
"""The version of the file format that this engine reads."""


def load_file(
    path: str | Path, *, environ: Mapping[str, str], overrides: Overrides | None = None
) -> FileConfig:
    """Read and check a file.

    Checks everything that does not depend on components. The problems are in the `problems` of the result;
    `engine.plan.compile` raises them together with its own, `check()` alone.

    Args:
        path: the file; a `.env` in its folder and files of `${file:…}` are read too.
        environ: the environment, which wins over `.env`; usually `os.environ`.
        overrides: parameters and settings from the command line or the caller.

    Raises:
        ConfigError: at once when nothing can be checked: no such file, not UTF-8, larger than
            1 MiB, a syntax error, an empty file, not a mapping.
    """
    path = Path(path)
    file = str(path)
    root = parse_bytes(_read(path), file)
    if root is None or root.data is None:
        raise ConfigError(
            [Problem("the file is empty", file=file, hint=f"start it with `version: {VERSION}`")]
        )
    problems = Problems()
    variables = load_environment(path.parent / ".env", environ, problems)
    scope = Scope(variables, read_file=file_reader(path.parent))
    return _build(root, file, scope, overrides or Overrides(), problems, environ)


def load_mapping(
    mapping: Mapping[str, JsonValue],
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
) -> FileConfig:
    """Check a mapping of the same shape as the file; for pipelines built in Python.

    Leaves under `with:` may be any Python objects that the component's parameters take. No `.env` is
    read; `environ` is empty unless given.

    Raises:
        ConfigError: like `load_file`.
    """
    root = from_plain(dict(mapping))
    scope = Scope(environ or {}, read_file=file_reader(Path()))
    return _build(root, "", scope, overrides or Overrides(), Problems(), environ or {})


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        parent = path.parent
        others = [item.name for item in parent.glob("*.y*ml")] if parent.is_dir() else []
        near = nearest(path.name, others)
        hint = f"did you mean {parent / near}?" if near else ""
        raise ConfigError([Problem("no such file", file=str(path), hint=hint)]) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError([Problem(f"cannot read the file: {reason}", file=str(path))]) from None


def _build(
    root: Value,
    file: str,
    scope: Scope,
    overrides: Overrides,
    problems: Problems,
    environ: Mapping[str, str],
) -> FileConfig:
    if not root.is_mapping:
        message = f"expected a mapping with `pipelines`, got {describe(root)}"
        raise ConfigError([root.place.problem(message)])
    root = root.without(*(name for name, _ in root.items() if name.startswith("x-")))  # a place for anchors
    root = without_nulls(apply_assignments(root, overrides.assignments, problems), FileSection)
    head = interpolate(root.without("pipelines"), scope, problems)
    validate(FileSection, head, problems)
    warehouse = _read_warehouse(head.get("warehouse"), file, problems)
    _check_version(head, problems)
    aliases = read_aliases(head.get("aliases"), _pipeline_names(root), problems)
    _refuse_routes(root, warehouse or Declared({}, _folder(file)), problems)
    pipelines = _read_pipelines(root, scope, with_own_names(overrides, aliases), aliases, problems)
    return FileConfig(
        file=file,
        version=VERSION,
        connections=MappingProxyType(_read_connections(head.get("connections"), problems)),
        pipelines=MappingProxyType(pipelines),
        aliases=MappingProxyType(aliases),
        problems=problems.all(),
        external=tuple(_external(scope, environ)),
        warehouse=warehouse,
    )


def _read_warehouse(section: Value | None, file: str, problems: Problems) -> Declared | None:
    """Return the models that the file declares, if all of them are valid."""
    if section is None or section.any_failed():
        return None
    try:
        declared = Declared(
            WarehouseSection.model_validate(section.plain()).model_dump(exclude_unset=True), _folder(file)
        )
        declared.models()
        declared.retention()
        declared.routes()
    except ValidationError:
        return None  # reported with the rest of the file
    except DeclarationError as error:
        found = section
        for step in error.path:
            found = found.get(step) or found
        problems.add(found.place, str(error))
        return None
    return declared if declared.document else None


def _refuse_routes(root: Value, warehouse: Declared, problems: Problems) -> None:
    """Refuse names under which the service reads tables: a request would start a run instead."""
    like_routes = [
        (what, names, name)
        for what, section in (("pipeline", "pipelines"), ("alias", "aliases"))
        for names in [root.get(section) or Value({}, root.place)]
        for name, _ in names.items()
        if name.lower().startswith("get")
    ]
    if not like_routes:
        return  # without loading any model
    try:
        routes = {route.lower(): route for route in warehouse.routes()}
    except DeclarationError as error:
        problems.add(root.place, str(error))
        return
    for what, names, name in like_routes:
        if route := routes.get(name.lower()):
            message = f"the service reads a table at `/consumption/{route}`, so it cannot start `{name}`"
            problems.add(names.key_place(name), message, f"give the {what} another name")


def _folder(file: str) -> str:
    return str(Path(file).resolve().parent) if file else str(Path.cwd())


def _external(scope: Scope, environ: Mapping[str, str]) -> Iterator[ExternalValue]:
    for place, name in dict.fromkeys(scope.asked):
        is_set = name.startswith("file:") or bool(scope.environ.get(name))
        yield ExternalValue(name, place, is_set, dotenv=name in scope.environ and name not in environ)


def _check_version(head: Value, problems: Problems) -> None:
    version = head.get("version")
    if version is not None and isinstance(version.data, int) and version.data != VERSION:
        message = f"version {version.data} is not supported, this engine reads version {VERSION}"
        problems.add(version.place, message)


def _read_connections(section: Value | None, problems: Problems) -> dict[str, ConnectionConfig]:
    connections: dict[str, ConnectionConfig] = {}
    for name, value in section.items() if section else []:
        place = section.key_place(name) if section else Place()
        check_name("connection", name, place, problems)
        if value.is_mapping:
            connections[name] = ConnectionConfig(name, value, _asks_for_sandbox(value), place)
        elif value.data == SANDBOX:
            connections[name] = ConnectionConfig(name, Value({}, value.place), True, place)
        else:
            if not value.failed:
                problems.add(value.place, f"expected fields or the word `sandbox`, got {describe(value)}")
            connections[name] = ConnectionConfig(name, Value({}, value.place, failed=True), False, place)
    return connections


def _asks_for_sandbox(fields: Value) -> bool:
    """Return whether a field is `sandbox`; next to an address the word is only a key."""
    texts = [field.data for _, field in fields.items() if isinstance(field.data, str)]
    return SANDBOX in texts and not any("://" in text for text in texts)


def _pipeline_names(root: Value) -> list[str]:
    section = root.get("pipelines")
    return [name for name, _ in section.items()] if section else []


def _read_pipelines(
    root: Value, scope: Scope, overrides: Overrides, aliases: Mapping[str, str], problems: Problems
) -> dict[str, PipelineConfig]:
    section = root.get("pipelines")
    if section is None or section.data == {}:
        if section is None and any(nearest(name, ["pipelines"]) for name, _ in root.items()):
            return {}  # a misspelt name: the report of the unknown key is enough
        place = root.keys.get("pipelines", root.place)
        problems.add(place, "no pipelines defined", "write pipelines: {name: {nodes: {…}}}")
        return {}
    if not section.is_mapping:
        problems.add(section.place, f"expected a mapping of pipelines, got {describe(section)}")
        return {}
    names = _pipeline_names(root)
    check_param_names(overrides, [*names, *aliases], problems)
    pipelines: dict[str, PipelineConfig] = {}
    known = {**aliases, **{name: name for name in names}}
    for name in names:
        pipeline = read_pipeline(name, section, scope, overrides, problems, known=known)
        if pipeline is not None:
            pipelines[name] = pipeline
    return pipelines
